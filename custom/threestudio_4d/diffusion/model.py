"""What the networks of diffusion priors with a discrete noise schedule share: schedule, latents, sentences, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from ..errors import UserError
from ..guidance import score_distillation as sd
from .codec import PixelUnshuffleCodec, decode_latents, downscale, encode_images, scaling_factor
from .text import TEXT_PARTS, TextConditioner
from .weights.files import read_config
from .weights.network_folder import (
    MAX_SHARD_SIZE,
    load_codec,
    load_network,
    part_folder,
    save_codec,
    save_network,
    write_index,
)

ModelT = TypeVar("ModelT", bound="TextModel")

#: mean and standard deviation of the pixels that CLIP was trained on
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class PictureCondition:
    """What a prior that is shown pictures knows of N of them.

    Attributes:
        embeddings: image embeddings, [N, K, D]; K = 1 for the published models.
        latents: unscaled latents of the pictures, [N, C, h, w].
    """

    embeddings: Tensor
    latents: Tensor

    def __getitem__(self, index: Tensor | slice) -> PictureCondition:
        return type(self)(self.embeddings[index], self.latents[index])

    def __len__(self) -> int:
        return len(self.latents)


class DiffusionModel(nn.Module):
    """A UNet with its image codec and noise schedule.

    Args:
        unet: ``sample_size`` is the side of a latent.
        vae: image codec.
        scheduler: defines the noise schedule, what the network predicts, and the steps of the sampler.
    """

    def __init__(
        self, unet: nn.Module, vae: AutoencoderKL | PixelUnshuffleCodec, scheduler: DDIMScheduler
    ) -> None:
        super().__init__()
        self.unet = unet
        self.vae = vae
        self.scheduler = scheduler
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone().float(), persistent=False)

    @property
    def prediction_type(self) -> str:
        """``epsilon`` (most published models) or ``v_prediction``."""
        return self.scheduler.config.prediction_type

    @property
    def num_train_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    @property
    def image_size(self) -> int:
        """Side in pixels of the pictures that the prior works with."""
        return self.unet.config.sample_size * downscale(self.vae)

    def to_epsilon_and_x0(self, output: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and clean latent that a network output stands for; all [B, C, ...], timesteps [B]."""
        alpha_bar = self.alphas_cumprod[t]
        if self.prediction_type == "v_prediction":
            return sd.eps_from_v(noisy, output, alpha_bar), sd.x0_from_v(noisy, output, alpha_bar)
        return output, sd.x0_from_eps(noisy, output, alpha_bar)


class PictureLatents:
    """Square pictures and their latents, for a ``DiffusionModel`` of single pictures."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a latent."""
        size = self.unet.config.sample_size
        return self.unet.config.out_channels, size, size

    def resize(self, images: Tensor) -> Tensor:
        """Resize [B, 3, H, W] to the size that the prior works at."""
        if images.shape[-2:] == (self.image_size, self.image_size):
            return images
        return F.interpolate(images, (self.image_size, self.image_size), mode="bilinear", align_corners=False)

    def encode(self, images: Tensor, sample: bool = True) -> Tensor:
        """Images [B, 3, S, S] in [0, 1] at ``image_size`` -> scaled latents [B, C, h, w]."""
        return encode_images(self.vae, images, sample) * scaling_factor(self.vae)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] -> images [B, 3, S, S] in [0, 1]."""
        return decode_latents(self.vae, latents / scaling_factor(self.vae))


class TextModel(DiffusionModel):
    """A ``DiffusionModel`` that attends to a sentence, and its folder in diffusers layout.

    Args:
        text: tokenizer and text tower; None where embeddings come from elsewhere.

    Raises:
        UserError: tower and UNet do not belong together.
    """

    unet_class: ClassVar[type[nn.Module]]

    def __init__(
        self,
        unet: nn.Module,
        vae: AutoencoderKL | PixelUnshuffleCodec,
        scheduler: DDIMScheduler,
        text: TextConditioner | None = None,
    ) -> None:
        if text is not None and text.width != unet.config.cross_attention_dim:
            raise UserError(
                f"the text tower gives embeddings of {text.width} channels, the UNet attends to "
                f"{unet.config.cross_attention_dim}: they belong to different priors"
            )
        super().__init__(unet, vae, scheduler)
        self.text = text

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [N, L, D] of N sentences.

        Raises:
            UserError: the prior was loaded without its text tower.
        """
        if self.text is None:
            raise UserError("this prior was loaded without its text tower: embed sentences with a TextConditioner")
        return self.text.encode(prompts)

    @classmethod
    def load(
        cls: type[ModelT],
        folder: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        text: bool = True,
    ) -> ModelT:
        """Load from a folder in diffusers layout. Nothing is left at random: missing or unknown weights are an error.

        Args:
            folder: holds ``unet``, ``vae``, ``scheduler`` and, for ``text``, ``text_encoder`` and ``tokenizer``; the
                last two may stand in a sibling that its index names.
            dtype: precision of all networks; single precision if None.
            text: load the text tower too.

        Raises:
            UserError: a part is missing or does not fit.
        """
        dtype = dtype or torch.float32
        model = cls(
            unet=load_network(cls.unet_class, part_folder(folder, "unet"), dtype),
            vae=load_codec(part_folder(folder, "vae"), dtype),
            scheduler=load_scheduler(part_folder(folder, "scheduler")),
            text=TextConditioner.load(folder, dtype) if text else None,
            **cls._settings(Path(folder)),
        )
        return model.to(device) if device is not None else model

    @classmethod
    def _settings(cls, folder: Path) -> dict[str, Any]:
        """More arguments of the class that a folder's index holds."""
        return {}

    def save(
        self,
        folder: str | Path,
        dtype: torch.dtype = torch.float16,
        max_shard_size: str = MAX_SHARD_SIZE,
        int8: bool = False,
        text_from: str | None = None,
    ) -> None:
        """Write the folder that ``load`` reads.

        Args:
            dtype: of the safetensors shards, each of at most ``max_shard_size``.
            int8: store UNet and text tower in 8 bits (see ``int8_weights``), which only this project reads.
            text_from: name of the sibling prior whose text tower is this one's; it is not written again.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_network(self.unet, folder / "unet", dtype, max_shard_size, int8)
        save_codec(self.vae, folder / "vae", dtype, max_shard_size)
        self.scheduler.save_pretrained(folder / "scheduler")
        if text_from is None and self.text is not None:
            self.text.save(folder, dtype, max_shard_size, int8)
        shared = {} if text_from is None else {"shared": dict.fromkeys(TEXT_PARTS, text_from)}
        write_index(folder, self._index(int8) | shared)

    def _index(self, int8: bool) -> dict[str, Any]:
        """``model_index.json``, without what is shared."""
        return {"_class_name": type(self).__name__}

    def _pipeline_parts(self) -> dict[str, list[str]]:
        """The parts as an index of diffusers' pipelines lists them."""
        parts = {name: ["diffusers", type(getattr(self, name)).__name__] for name in ("unet", "vae", "scheduler")}
        if self.text is not None:
            parts["text_encoder"] = ["transformers", type(self.text.text_encoder).__name__]
            parts["tokenizer"] = ["transformers", "CLIPTokenizer"]
        return parts


def load_scheduler(folder: Path) -> DDIMScheduler:
    """The noise schedule of a folder, whatever sampler its authors saved it for."""
    config = read_config(folder, DDIMScheduler.config_name)
    config.pop("skip_prk_steps", None)
    return DDIMScheduler.from_config(config)
