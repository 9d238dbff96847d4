"""The network of OmniVL and what reads from it. It sees tensors only: no data, no task, no rank."""

from omnivl.model.layers import CrossKV, KVCache
from omnivl.model.omnivl import OmniVL, Text, Visual
from omnivl.model.text import AlignmentDecoder, GenerationDecoder, TextEncoder, starting_with
from omnivl.model.vision import PatchEmbed, SpaceTimeBlock, VisualEncoder
from omnivl.model.weights import load_model, save_weights, shared_names

__all__ = [
    "AlignmentDecoder",
    "CrossKV",
    "GenerationDecoder",
    "KVCache",
    "OmniVL",
    "PatchEmbed",
    "SpaceTimeBlock",
    "Text",
    "TextEncoder",
    "Visual",
    "VisualEncoder",
    "load_model",
    "save_weights",
    "shared_names",
    "starting_with",
]
