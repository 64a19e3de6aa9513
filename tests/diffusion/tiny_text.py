"""A randomly initialised text conditioner, as small as it gets, with a tokenizer learnt from a few sentences."""

import tempfile

import torch

from threestudio_4d.diffusion.text import TextConditioner
from threestudio_4d.tiny_priors.image_text.networks import build_clip_tiny, build_tokenizer, text_tower

SENTENCES = ("a fox", "a fox walking", "a pine tree", "a red car", "a horse galloping", "an old wooden chair")


def tiny_text(width: int = 32, layers: int = 1, length: int = 12, seed: int = 0) -> TextConditioner:
    """Embeddings [N, length, width], frozen."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(SENTENCES, folder, max_length=length)
    clip = build_clip_tiny(len(tokenizer), width, layers, 16, 8, 16, length)
    return TextConditioner(text_tower(clip), tokenizer).requires_grad_(False).eval()
