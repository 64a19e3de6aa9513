"""Read the original ``zero123-xl.ckpt`` (Lightning, latent-diffusion layout) into the networks that we run.

The networks are built without storage, filled tensor by tensor from the memory-mapped file, and nothing may be left
over: a missing tensor, one of the wrong shape, or an unknown one under a network's prefix is an error that names it.

The moving average of the UNet is preferred, as the original code always installs it; a checkpoint without one is fine.

``convert_zero123`` beside this file converts once to a folder in diffusers layout.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..weights import ldm_layout as layout
from ..weights.ldm_checkpoint import check_schedule, fill_network, manifest_of
from ..weights.ldm_layout import Source
from ..weights.safe_checkpoint import read_state_dict
from .model import Zero123Model

logger = logging.getLogger(__name__)

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # diffusers calls the number of heads so
}
CLIP_CONFIG: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
CAMERA_PREFIX = "cc_projection."


def build_zero123(
    unet: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    clip: Mapping[str, Any] | None = None,
    *,
    empty: bool = False,
) -> Zero123Model:
    """A Zero123 of the published architecture, or with parts of the configs replaced; weights are random.

    Args:
        unet, vae, clip: entries that override ``UNET_CONFIG``, ``ldm_layout.VAE_CONFIG``, ``CLIP_CONFIG``.
        empty: give the parameters no storage (meta device); buffers are real.
    """
    unet_config, clip_config = {**UNET_CONFIG, **(unet or {})}, {**CLIP_CONFIG, **(clip or {})}
    width = unet_config["cross_attention_dim"]

    def build() -> Zero123Model:
        return Zero123Model(
            unet=UNet2DConditionModel(**unet_config),
            vae=AutoencoderKL(**{**layout.VAE_CONFIG, **(vae or {})}),
            image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**clip_config)),
            camera_projection=nn.Linear(clip_config["projection_dim"] + 4, width),
            scheduler=DDIMScheduler(**layout.SCHEDULER_CONFIG),
        ).eval()

    if not empty:
        return build()
    with init_empty_weights(include_buffers=False):
        return build()


def checkpoint_sources(model: Zero123Model, ema: bool = True) -> dict[str, Source]:
    """For every parameter of the model, the key in a checkpoint (with its prefix) and the operation on it."""
    sources: dict[str, Source] = {}
    for key in model.unet.state_dict():
        name, operation = layout.unet_source(key, model.unet.config)
        sources[f"unet.{key}"] = Source(layout.ema_key(name) if ema else layout.UNET_PREFIX + name, operation)
    for key in model.vae.state_dict():
        name, operation = layout.vae_source(key, model.vae.config)
        sources[f"vae.{key}"] = Source(layout.VAE_PREFIX + name, operation)
    for key in model.image_encoder.state_dict():
        name, operation = layout.clip_source(key)
        sources[f"image_encoder.{key}"] = Source(layout.CLIP_VISUAL_PREFIX + name, operation)
    for key, name in layout.CAMERA_KEYS.items():
        sources[f"camera_projection.{key}"] = Source(name)
    return sources


def checkpoint_manifest(model: Zero123Model, ema: bool = True) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every tensor that a checkpoint of this architecture has for its networks."""
    return manifest_of(model, checkpoint_sources(model, ema))


def fill_from_checkpoint(
    model: Zero123Model,
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    name: str = "the checkpoint",
) -> bool:
    """Give every parameter of ``model`` its value from ``state``, strictly.

    Args:
        model: networks of the checkpoint's architecture; may have been built with ``empty=True``.
        state: the tensors of a checkpoint by their original keys.
        dtype, device: of the parameters afterwards.
        name: what messages call the checkpoint.

    Returns:
        Whether the moving average of the UNet was used.

    Raises:
        UserError: a tensor is missing, has another shape, or is unknown.
    """
    ema = any(key.startswith(layout.EMA_PREFIX) and key not in layout.NOT_NETWORKS for key in state)
    check_schedule(model.alphas_cumprod, state, "Zero123", name)
    fill_network(
        model,
        state,
        checkpoint_sources(model, ema),
        kind="Zero123",
        name=name,
        prefixes=(
            layout.UNET_PREFIX,
            layout.EMA_PREFIX,
            layout.VAE_PREFIX,
            layout.CLIP_VISUAL_PREFIX,
            "cc_projection.",
        ),
        spare=checkpoint_manifest(model, ema=False),  # the raw weights beside the average
        ignored=(layout.CLIP_PREFIX,),  # CLIP's text side is not needed
        dtype=dtype,
        device=device,
    )
    return ema


def load_zero123_checkpoint(
    path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Zero123Model:
    """The networks of an original ``zero123-xl.ckpt`` (or one of its siblings of the same architecture)."""
    state = read_state_dict(path)
    model = build_zero123(empty=True)
    ema = fill_from_checkpoint(model, state, dtype, device, name=str(path))
    logger.info("read %s with the %s of its UNet", path, "moving average" if ema else "raw weights (it has no average)")
    return model.to(device)
