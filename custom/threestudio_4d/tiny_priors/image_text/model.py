"""The built-in image-text model: pictures and sentences as unit vectors of one space (Radford et al., ICML 2021)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection

from ...diffusion.model import CLIP_MEAN, CLIP_STD
from ...diffusion.text import TextConditioner
from ...diffusion.weights.network_folder import load_network, part_folder, save_network, write_index
from ...diffusion.weights.resolve import read_index, resolve_prior
from .networks import text_tower, vision_tower

CLIP_PARTS = ("image_encoder", "text_encoder", "tokenizer")
LARGEST_SCALE = 100.0  # of the logits, as in the paper


class ImageTextModel(nn.Module):
    """Image encoder and text tower of a CLIP prior.

    Args:
        image_encoder: CLIP image encoder with projection.
        text: a conditioner whose tower has a projection.
        logit_scale: logarithm of the factor between cosines and logits.
    """

    def __init__(
        self, image_encoder: CLIPVisionModelWithProjection, text: TextConditioner, logit_scale: float = 2.6592
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_clip(cls, clip: CLIPModel, tokenizer: CLIPTokenizer) -> ImageTextModel:
        """The two halves of a ``CLIPModel``, sharing its weights."""
        return cls(vision_tower(clip), TextConditioner(text_tower(clip), tokenizer), clip.logit_scale.item())

    @property
    def image_size(self) -> int:
        """Side in pixels of the pictures that the image encoder sees."""
        return self.image_encoder.config.image_size

    def image_features(self, images: Tensor) -> Tensor:
        """Unit vectors [N, P] float32 of pictures [N, 3, H, W] in [0, 1]."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = F.interpolate(images, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        pixels = ((images - self.mean) / self.std).to(self.image_encoder.dtype)
        return F.normalize(self.image_encoder(pixel_values=pixels).image_embeds.float(), dim=-1)

    def token_features(self, ids: Tensor) -> Tensor:
        """Unit vectors [N, P] float32 of sentences given as token numbers [N, L]."""
        return F.normalize(self.text.text_encoder(input_ids=ids).text_embeds.float(), dim=-1)

    def text_features(self, prompts: list[str]) -> Tensor:
        """Unit vectors [N, P] float32 of sentences."""
        return self.token_features(self.text.tokens(prompts))

    def scale(self) -> Tensor:
        """Factor between cosines and logits, 0-dim."""
        return self.logit_scale.exp().clamp(max=LARGEST_SCALE)

    @classmethod
    def load(cls, name: str | Path, device: torch.device | str = "cpu") -> ImageTextModel:
        """A frozen model in single precision, from a built-in name or a folder that ``save`` wrote."""
        folder = resolve_prior(str(name), CLIP_PARTS).path
        encoder = load_network(CLIPVisionModelWithProjection, part_folder(folder, "image_encoder"))
        model = cls(encoder, TextConditioner.load(folder), read_index(folder).get("logit_scale", 2.6592))
        return model.to(device).requires_grad_(False).eval()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16, int8: bool = False) -> None:
        """Write the parts ``image_encoder``, ``text_encoder`` and ``tokenizer``, the networks in 8 bits if ``int8``."""
        folder = Path(folder)
        self.text.save(folder, dtype, int8=int8)
        save_network(self.image_encoder, folder / "image_encoder", dtype, int8=int8)
        write_index(folder, {"_class_name": "ImageTextModel", "logit_scale": round(self.logit_scale.item(), 4)})
