"""Small things that many tests need: a random model folder, pictures, clips."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from omnivl.config import ModelConfig, TextConfig, VisionConfig
from omnivl.data import world
from omnivl.model import OmniVL
from omnivl.model.folder import save_folder
from omnivl.tokenizer import Tokenizer

MINI = ModelConfig(
    vision=VisionConfig(image_size=32, patch_size=16, num_frames=4, width=32, layers=1, heads=2, mlp_width=64),
    text=TextConfig(width=32, layers=1, heads=2, mlp_width=64, max_positions=64),
    embed_dim=16,
)


def mini_model(seed: int = 0, config: ModelConfig = MINI) -> tuple[OmniVL, Tokenizer]:
    """A random model of 1 layer, and a tokenizer of the world's words."""
    tokenizer = Tokenizer.train(world.all_captions(), vocab_size=200)
    torch.manual_seed(seed)
    model = OmniVL(replace(config, text=replace(config.text, vocab_size=tokenizer.vocab_size)))
    return model.eval(), tokenizer


def mini_folder(folder: Path, seed: int = 0) -> Path:
    save_folder(*mini_model(seed), folder)
    return folder


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def moving_gif(path: Path, seed: int = 0, frames: int = 6) -> Path:
    rng = np.random.default_rng(seed)
    pictures = [Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)) for _ in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, loop=0)
    return path
