"""The networks of a Stable Diffusion prior, published or built in: one class, one code path.

Stable Diffusion (Rombach et al., CVPR 2022) denoises a latent picture that attends to a sentence. Versions 1.x predict
the noise, 2.x at 768 pixels the velocity; the built-in prior works on pixels, under a schedule that ends in pure noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from ..errors import UserError
from . import score_distillation as sd
from .codec import PixelUnshuffleCodec, decode_latents, downscale, encode_images, scaling_factor
from .network_folder import load_codec, load_network, part_folder, save_codec, save_network, write_index
from .text import TEXT_PARTS, TextConditioner

SD_PARTS = ("unet", "vae", "scheduler", *TEXT_PARTS)


class StableDiffusionModel(nn.Module):
    """UNet, image codec and text tower of a text-to-image prior.

    Args:
        unet: attends to the embeddings of a sentence.
        vae: image codec.
        scheduler: defines the noise schedule, what the network predicts, and the steps of the sampler.
        text: tokenizer and text tower; None where embeddings come from elsewhere.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | PixelUnshuffleCodec,
        scheduler: DDIMScheduler,
        text: TextConditioner | None = None,
    ) -> None:
        super().__init__()
        if text is not None and text.width != unet.config.cross_attention_dim:
            raise UserError(
                f"the text tower gives embeddings of {text.width} channels, the UNet attends to "
                f"{unet.config.cross_attention_dim}: they belong to different priors"
            )
        self.unet = unet
        self.vae = vae
        self.scheduler = scheduler
        self.text = text
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone().float(), persistent=False)

    @property
    def prediction_type(self) -> str:
        """``epsilon`` or ``v_prediction``."""
        return self.scheduler.config.prediction_type

    @property
    def num_train_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    @property
    def image_size(self) -> int:
        """Side in pixels of the pictures that the prior works with."""
        return self.unet.config.sample_size * downscale(self.vae)

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

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [N, L, D] of N sentences.

        Raises:
            UserError: the prior was loaded without its text tower.
        """
        if self.text is None:
            raise UserError("this prior was loaded without its text tower: embed sentences with a TextConditioner")
        return self.text.encode(prompts)

    def denoise(self, noisy: Tensor, t: Tensor, text: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Raw network output [B, C, h, w], in single precision.

        Args:
            noisy: [B, C, h, w].
            t: timesteps, [B].
            text: embeddings, [B, L, D].
            class_labels: for a UNet with a class embedding, such as the camera of a LoRA in VSD.
        """
        dtype = self.unet.dtype
        labels = None if class_labels is None else class_labels.to(dtype)
        return self.unet(noisy.to(dtype), t, text.to(dtype), class_labels=labels, return_dict=False)[0].float()

    def denoise_guided(
        self, noisy: Tensor, t: Tensor, text: Tensor, negative: Tensor | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        """Network output with classifier-free guidance, ``u + s (c - u)`` (Ho and Salimans, 2022).

        Args:
            negative: embeddings of the negative prompt, or of the empty one, [B, L, D]; not needed for a scale of 1.
            guidance_scale: s; 1 takes one pass of the network.
        """
        if guidance_scale == 1:
            return self.denoise(noisy, t, text)
        if negative is None:
            raise ValueError("a guidance_scale other than 1 needs the embeddings of the negative or empty prompt")
        unconditional, conditional = self.denoise(
            torch.cat([noisy, noisy]), torch.cat([t, t]), torch.cat([negative, text])
        ).chunk(2)
        return sd.classifier_free_guidance(unconditional, conditional, guidance_scale)

    def to_epsilon_and_x0(self, output: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and clean latent that a network output stands for; both [B, C, h, w]."""
        alpha_bar = self.alphas_cumprod[t]
        if self.prediction_type == "v_prediction":
            return sd.eps_from_v(noisy, output, alpha_bar), sd.x0_from_v(noisy, output, alpha_bar)
        return output, sd.x0_from_eps(noisy, output, alpha_bar)

    def predict(
        self, noisy: Tensor, t: Tensor, text: Tensor, negative: Tensor | None = None, guidance_scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Predicted noise and clean latent, [B, C, h, w] each, in single precision; see ``denoise_guided``."""
        return self.to_epsilon_and_x0(self.denoise_guided(noisy, t, text, negative, guidance_scale), noisy, t)

    @torch.no_grad()
    def sample(
        self,
        text: Tensor,
        negative: Tensor | None = None,
        steps: int = 40,
        guidance_scale: float = 5.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Draw pictures by DDIM (Song et al., 2021): embeddings [B, L, D] -> images [B, 3, S, S] in [0, 1].

        Args:
            negative: embeddings of the negative or empty prompt, [B, L, D] or [1, L, D].
            latents: the noise to start from, [B, C, h, w], instead of one drawn with ``generator``.
        """
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=text.device)
        count = len(text)
        if negative is not None:
            negative = negative.expand(count, -1, -1)
        if latents is None:
            device = generator.device if generator is not None else text.device
            latents = torch.randn((count, *self.latent_shape), generator=generator, device=device).to(text.device)
        for t in scheduler.timesteps:
            output = self.denoise_guided(latents, t.expand(count), text, negative, guidance_scale)
            latents = scheduler.step(output, t, latents, return_dict=False)[0]
        return self.decode(latents)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        text: bool = True,
    ) -> StableDiffusionModel:
        """Load from a folder in diffusers layout. Nothing is left at random: missing or unknown weights are an error.

        Args:
            folder: holds ``unet``, ``vae``, ``scheduler``, ``text_encoder`` and ``tokenizer``; the last two may stand
                in a sibling that its index names.
            dtype: precision of all networks; single precision if None.
            text: load the text tower too.

        Raises:
            UserError: a part is missing or does not fit.
        """
        dtype = dtype or torch.float32
        model = cls(
            unet=load_network(UNet2DConditionModel, part_folder(folder, "unet"), dtype),
            vae=load_codec(part_folder(folder, "vae"), dtype),
            scheduler=load_scheduler(part_folder(folder, "scheduler")),
            text=TextConditioner.load(folder, dtype) if text else None,
        )
        return model.to(device) if device is not None else model

    def save(
        self,
        folder: str | Path,
        dtype: torch.dtype = torch.float16,
        max_shard_size: str = "15MB",
        int8: bool = False,
        text_from: str | None = None,
    ) -> None:
        """Write the folder that ``load`` reads.

        With an autoencoder and without ``int8`` it is also one that diffusers' ``StableDiffusionPipeline`` reads.

        Args:
            dtype: of the safetensors shards, each of at most ``max_shard_size``.
            int8: store the UNet in 8 bits (see ``int8_weights``).
            text_from: name of the sibling prior whose text tower is this one's; it is not written again.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_network(self.unet, folder / "unet", dtype, max_shard_size, int8)
        save_codec(self.vae, folder / "vae", dtype, max_shard_size)
        self.scheduler.save_pretrained(folder / "scheduler")
        if text_from is None and self.text is not None:
            self.text.save(folder, dtype, max_shard_size, int8)
        write_index(folder, self._index(int8, text_from))

    def _index(self, int8: bool, text_from: str | None) -> dict[str, Any]:
        """``model_index.json``: that of a pipeline of diffusers, where it could read the parts."""
        if text_from is not None:
            return {"_class_name": type(self).__name__, "shared": dict.fromkeys(TEXT_PARTS, text_from)}
        if int8 or self.text is None or not isinstance(self.vae, AutoencoderKL):
            return {"_class_name": type(self).__name__}
        nothing = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"), [None, None])
        parts = {name: ["diffusers", type(getattr(self, name)).__name__] for name in ("unet", "vae", "scheduler")}
        tower = {"text_encoder": ["transformers", type(self.text.text_encoder).__name__]}
        index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **nothing, **parts}
        return index | tower | {"tokenizer": ["transformers", "CLIPTokenizer"]}


def load_scheduler(folder: Path) -> DDIMScheduler:
    """The noise schedule of a folder, whatever sampler its authors saved it for."""
    config = {key: value for key, value in DDIMScheduler.load_config(folder).items() if key != "skip_prk_steps"}
    return DDIMScheduler.from_config(config)
