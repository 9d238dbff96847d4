"""The 8-bit model of the precision study is the model, nearly: the same vectors, matching and writing."""

import pytest
import torch

from omnivl.config import MODELS
from omnivl.model import OmniVL
from studies.precision import embed, quantised


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.inference_mode()
def test_a_quantised_model_gives_nearly_the_same() -> None:
    torch.manual_seed(0)
    model = OmniVL(MODELS["tiny"]).eval()
    other = quantised(model)
    assert other is not model and not isinstance(other.visual.blocks[0].mlp.fc1, torch.nn.Linear)
    side = model.config.vision.image_size
    ids = torch.randint(1, 200, (2, 6))
    for given in (torch.randint(0, 255, (2, 4, 3, side, side), dtype=torch.uint8), ids):
        vectors, expected = embed(other, given), embed(model, given)
        assert (vectors != expected).any() and ((vectors * expected).sum(1) > 0.97).all()
    tokens = model.encode_visual(torch.randn(2, 1, 3, side, side)).tokens
    torch.testing.assert_close(other.match(ids, None, tokens), model.match(ids, None, tokens), atol=0.2, rtol=0.2)
