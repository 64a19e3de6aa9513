"""The networks of a Zero123 prior, published or built in: one class, one code path.

Zero-1-to-3 (Liu et al., ICCV 2023) denoises a view of an object given one picture of it and the change of camera. The
picture enters twice: its latent is concatenated to the noisy latent, and its image embedding, mixed with the camera
change by one linear layer, is the context of the cross-attention.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from ...errors import UserError
from ..codec import PixelUnshuffleCodec, encode_images
from ..model import CLIP_MEAN, CLIP_STD, DiffusionModel, PictureCondition, PictureLatents
from ..weights.files import check_weight_file, read_config, weight_files
from ..weights.network_folder import (
    MAX_SHARD_SIZE,
    load_codec,
    load_network,
    part_folder,
    save_codec,
    save_network,
    without_position_ids,
    write_index,
)
from ..weights.resolve import ZERO123_PARTS, read_index
from ..weights.safe_checkpoint import read_state_dict


class Zero123Condition(PictureCondition):
    """What Zero123 knows of N pictures."""


def camera_vector(
    elevation: Tensor,
    azimuth: Tensor,
    distance: Tensor,
    cond_elevation: float | Tensor,
    cond_azimuth: float | Tensor,
    cond_distance: float | Tensor,
) -> Tensor:
    """Change of camera from the picture to the view asked for, as Zero123 takes it.

    Angles in degrees, [B]. Returns [B, 4]: change of polar angle in radians (polar = 90 deg - elevation), sine and
    cosine of the change of azimuth, change of distance.
    """
    azimuth_change = torch.deg2rad(azimuth - cond_azimuth)
    return torch.stack(
        [
            torch.deg2rad(cond_elevation - elevation),
            torch.sin(azimuth_change),
            torch.cos(azimuth_change),
            distance - cond_distance,
        ],
        dim=-1,
    )


class Zero123Model(PictureLatents, DiffusionModel):
    """UNet, image codec, image encoder and camera projection of a Zero123 prior.

    Args:
        unet: ``in_channels`` is the channels of the noisy latent plus those of the picture's latent. A ``projection``
            class embedding, if it has one, receives the camera vector.
        vae: image codec.
        image_encoder: CLIP image encoder.
        camera_projection: linear layer from [embedding | camera vector] to the cross-attention width.
        scheduler: defines the noise schedule and what the network predicts.
        condition_tokens: ``pooled`` is the CLIP image embedding (published models, one token), ``all`` every token of
            the image encoder.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | PixelUnshuffleCodec,
        image_encoder: CLIPVisionModelWithProjection,
        camera_projection: nn.Linear,
        scheduler: DDIMScheduler,
        condition_tokens: Literal["pooled", "all"] = "pooled",
    ) -> None:
        super().__init__(unet, vae, scheduler)
        if condition_tokens not in ("pooled", "all"):
            raise UserError(f"condition_tokens must be 'pooled' or 'all', got {condition_tokens!r}")
        self.image_encoder = without_position_ids(image_encoder)
        self.camera_projection = camera_projection
        self.condition_tokens = condition_tokens
        self.register_buffer("clip_mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("clip_std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)

    def embed_images(self, images: Tensor) -> Tensor:
        """Image embeddings, not normalised: [N, 3, H, W] in [0, 1] -> [N, K, D].

        Published models see the picture resized bicubically with aligned corners and no antialiasing.
        """
        size = self.image_encoder.config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", align_corners=True)
        pixels = ((images - self.clip_mean) / self.clip_std).to(self.image_encoder.dtype)
        output = self.image_encoder(pixels)
        if self.condition_tokens == "pooled":
            return output.image_embeds[:, None]
        hidden = self.image_encoder.vision_model.post_layernorm(output.last_hidden_state)
        return self.image_encoder.visual_projection(hidden)

    def encode_condition(self, images: Tensor) -> Zero123Condition:
        """Encode pictures [N, 3, H, W] in [0, 1] on white. The latent is the posterior mean and is not scaled."""
        return Zero123Condition(self.embed_images(images), encode_images(self.vae, self.resize(images), sample=False))

    def context(self, condition: Zero123Condition, camera: Tensor) -> Tensor:
        """Cross-attention context [B, K, D'] of embeddings [B, K, D] and camera vectors [B, 4]."""
        embeddings = condition.embeddings
        camera = camera[:, None].expand(-1, embeddings.shape[1], -1).to(embeddings.dtype)
        tokens = torch.cat([embeddings, camera], dim=-1)
        return self.camera_projection(tokens.to(self.camera_projection.weight.dtype))

    def denoise(self, noisy: Tensor, t: Tensor, context: Tensor, latents: Tensor, camera: Tensor) -> Tensor:
        """Raw network output [B, C, h, w] for noisy latents, timesteps [B], context, picture latents and camera."""
        labels = camera.to(self.unet.dtype) if self.unet.config.class_embed_type == "projection" else None
        sample = torch.cat([noisy, latents.to(noisy.dtype)], dim=1).to(self.unet.dtype)
        return self.unet(sample, t, context.to(self.unet.dtype), class_labels=labels, return_dict=False)[0].float()

    def denoise_guided(
        self, noisy: Tensor, t: Tensor, condition: Zero123Condition, camera: Tensor, guidance_scale: float
    ) -> Tensor:
        """Network output with classifier-free guidance: u + s (c - u).

        Unconditional means a zero context *after* the projection, a zero picture latent and a zero camera. A scale of 1
        needs no unconditional pass.
        """
        context = self.context(condition, camera)
        if guidance_scale == 1:
            return self.denoise(noisy, t, context, condition.latents, camera)
        unconditional, conditional = self.denoise(
            torch.cat([noisy, noisy]),
            torch.cat([t, t]),
            torch.cat([torch.zeros_like(context), context]),
            torch.cat([torch.zeros_like(condition.latents), condition.latents]),
            torch.cat([torch.zeros_like(camera), camera]),
        ).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def predict(
        self, noisy: Tensor, t: Tensor, condition: Zero123Condition, camera: Tensor, guidance_scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Predicted noise and clean latent, [B, C, h, w] each, in single precision."""
        output = self.denoise_guided(noisy, t, condition, camera, guidance_scale)
        return self.to_epsilon_and_x0(output, noisy, t)

    @torch.no_grad()
    def sample(
        self,
        condition: Zero123Condition,
        camera: Tensor,
        steps: int = 40,
        guidance_scale: float = 2.0,
        generator: torch.Generator | None = None,
        eta: float = 0.0,
    ) -> Tensor:
        """Sample views by DDIM: camera vectors [B, 4] -> images [B, 3, S, S] in [0, 1].

        Timesteps are spaced as the prior's scheduler says: 981, 961, ... 1 in 50 steps of the published one. ``eta`` 0
        is deterministic; the published demo draws with 1, new noise in every step.
        """
        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=camera.device)
        shape = (len(camera), *self.latent_shape)
        device = generator.device if generator is not None else camera.device
        latents = torch.randn(shape, generator=generator, device=device).to(camera.device)
        for t in scheduler.timesteps:
            output = self.denoise_guided(latents, t.expand(len(camera)), condition, camera, guidance_scale)
            latents = scheduler.step(output, t, latents, eta, generator=generator, return_dict=False)[0]
        return self.decode(latents)

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Zero123Model:
        """Load from a folder in diffusers layout. Nothing is left at random: missing or unknown weights are an error.

        Args:
            folder: holds ``unet``, ``vae``, ``image_encoder``, ``clip_camera_projection`` and ``scheduler``.
            dtype: precision of all networks; single precision if None.

        Raises:
            UserError: a part is missing or does not fit.
        """
        dtype = dtype or torch.float32
        parts = {name: part_folder(folder, name) for name in ZERO123_PARTS}
        model = cls(
            unet=load_network(UNet2DConditionModel, parts["unet"], dtype),
            vae=load_codec(parts["vae"], dtype),
            image_encoder=load_network(CLIPVisionModelWithProjection, parts["image_encoder"], dtype),
            camera_projection=_load_camera_projection(parts["clip_camera_projection"], dtype),
            scheduler=DDIMScheduler.from_config(read_config(parts["scheduler"], DDIMScheduler.config_name)),
            condition_tokens=read_index(Path(folder)).get("condition_tokens", "pooled"),
        )
        return model.to(device) if device is not None else model

    def save(
        self,
        folder: str | Path,
        dtype: torch.dtype = torch.float16,
        max_shard_size: str = MAX_SHARD_SIZE,
        int8: bool = False,
    ) -> None:
        """Write the folder that ``load`` reads: safetensors shards of at most ``max_shard_size`` in ``dtype``.

        With ``int8`` the UNet and the image encoder are stored in 8 bits (see ``int8_weights``), which only this
        project reads.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_network(self.unet, folder / "unet", dtype, max_shard_size, int8)
        save_network(self.image_encoder, folder / "image_encoder", dtype, max_shard_size, int8)
        save_codec(self.vae, folder / "vae", dtype, max_shard_size)
        projection_folder = folder / "clip_camera_projection"
        projection_folder.mkdir(exist_ok=True)
        projection = self.camera_projection
        state = {f"proj.{name}": value.to(dtype).contiguous() for name, value in projection.state_dict().items()}
        save_file(state, projection_folder / "diffusion_pytorch_model.safetensors")
        shape = {"in_features": projection.in_features, "out_features": projection.out_features}
        (projection_folder / "config.json").write_text(json.dumps(shape, indent=2) + "\n")
        self.scheduler.save_pretrained(folder / "scheduler")
        write_index(folder, {"_class_name": "Zero123Model", "condition_tokens": self.condition_tokens})


def _load_camera_projection(folder: Path, dtype: torch.dtype) -> nn.Linear:
    _, files = weight_files(folder)
    check_weight_file(files[0])
    state = read_state_dict(files[0])
    if set(state) != {"proj.weight", "proj.bias"}:
        raise UserError(f"{folder} must hold proj.weight and proj.bias, found {', '.join(sorted(state))}")
    linear = nn.Linear(state["proj.weight"].shape[1], state["proj.weight"].shape[0])
    linear.load_state_dict({name.removeprefix("proj."): value for name, value in state.items()})
    return linear.to(dtype)
