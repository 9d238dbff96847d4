"""Scores of evaluations: pure functions of tensors and texts, every result a fraction, never percent."""

from omnivl.metrics.captions import caption_metrics
from omnivl.metrics.ranking import chance_at_k, hits_at_k, mean_per_class, median_rank, recall_at_k, top_k_accuracy
from omnivl.metrics.texts import exact_match, token_f1, words
from omnivl.metrics.vqa import normalise_answer, vqa_accuracies

__all__ = [
    "caption_metrics",
    "chance_at_k",
    "exact_match",
    "hits_at_k",
    "mean_per_class",
    "median_rank",
    "normalise_answer",
    "recall_at_k",
    "token_f1",
    "top_k_accuracy",
    "vqa_accuracies",
    "words",
]
