"""Read MVDream's original layout, ``sd-v2.1-base-4view.pt``, into the networks that we run.

The file holds the tensors of a multi-view UNet (with ``camera_embed``), of the autoencoder and of OpenCLIP ViT-H/14's
text tower. Everything is checked as for Zero123, see ``ldm_checkpoint``. Stable Diffusion 2 reads the text tower before
its last layer, so that layer, the text projection and the logit scale are left out. The tokenizer is not in the file:
it is that of any Stable Diffusion 2 folder.

``convert_mvdream`` beside this file converts once to a folder in diffusers layout. Folders on the hub that were
converted for a pipeline with code of its own keep the original names inside ``unet`` (class ``MultiViewUNetModel``);
they load too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ...errors import UserError
from ..model import load_scheduler
from ..text import TextConditioner
from ..weights import ldm_layout as layout
from ..weights.ldm_checkpoint import check_schedule, fill_network, manifest_of
from ..weights.ldm_layout import Source
from ..weights.network_folder import load_codec, part_folder, without_position_ids
from ..weights.safe_checkpoint import read_state_dict
from .model import CAMERA_DIM, MVDreamModel

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),  # diffusers calls the number of heads so
    "use_linear_projection": True,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": CAMERA_DIM,
}
TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: Stable Diffusion 2 reads the penultimate
    "num_attention_heads": 16,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 0,
}
KIND = "MVDream"
ORIGINAL_UNET_CLASS = "MultiViewUNetModel"


def build_mvdream(
    unet: Mapping[str, Any] | None = None, vae: Mapping[str, Any] | None = None, *, empty: bool = False
) -> MVDreamModel:
    """An MVDream of the published architecture, without text tower; weights are random.

    Args:
        unet, vae: entries that override ``UNET_CONFIG`` and ``ldm_layout.VAE_CONFIG``.
        empty: give the parameters no storage (meta device); buffers are real.
    """

    def build() -> MVDreamModel:
        return MVDreamModel(
            unet=UNet2DConditionModel(**{**UNET_CONFIG, **(unet or {})}),
            vae=AutoencoderKL(**{**layout.VAE_CONFIG, **(vae or {})}),
            scheduler=DDIMScheduler(**layout.SCHEDULER_CONFIG),
        ).eval()

    if not empty:
        return build()
    with init_empty_weights(include_buffers=False):
        return build()


def build_text_tower(config: Mapping[str, Any] | None = None, *, empty: bool = False) -> CLIPTextModel:
    """The text tower of Stable Diffusion 2; ``config`` overrides entries of ``TEXT_CONFIG``, see ``build_mvdream``."""
    full = CLIPTextConfig(**{**TEXT_CONFIG, **(config or {})})
    if not empty:
        return without_position_ids(CLIPTextModel(full).eval())
    with init_empty_weights(include_buffers=False):
        return without_position_ids(CLIPTextModel(full).eval())


def checkpoint_sources(model: MVDreamModel) -> dict[str, Source]:
    """For every tensor of UNet and autoencoder, the key in a checkpoint (with its prefix) and the operation on it."""
    sources: dict[str, Source] = {}
    for key in model.unet.state_dict():
        name, operation = layout.unet_source(key, model.unet.config)
        sources[f"unet.{key}"] = Source(layout.UNET_PREFIX + name, operation)
    for key in model.vae.state_dict():
        name, operation = layout.vae_source(key, model.vae.config)
        sources[f"vae.{key}"] = Source(layout.VAE_PREFIX + name, operation)
    return sources


def text_sources(tower: CLIPTextModel) -> dict[str, Source]:
    """The same for a text tower."""
    sources = {key: layout.text_source(key) for key in tower.state_dict()}
    return {key: Source(layout.CLIP_PREFIX + source.key, source.operation) for key, source in sources.items()}


def checkpoint_manifest(model: MVDreamModel, tower: CLIPTextModel) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every tensor that a checkpoint of this architecture has for what we run of its networks."""
    return manifest_of(model, checkpoint_sources(model)) | manifest_of(tower, text_sources(tower))


def fill_from_checkpoint(
    model: MVDreamModel,
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    name: str = "the checkpoint",
) -> None:
    """Give UNet and autoencoder of ``model`` their values from ``state``, strictly; see ``ldm_checkpoint``.

    Raises:
        UserError: a tensor is missing, has another shape, or is unknown.
    """
    check_schedule(model.alphas_cumprod, state, KIND, name)
    fill_network(
        model,
        state,
        checkpoint_sources(model),
        kind=KIND,
        name=name,
        prefixes=(layout.UNET_PREFIX, layout.VAE_PREFIX),
        ignored=(layout.CLIP_PREFIX,),
        dtype=dtype,
        device=device,
    )


def fill_text_tower(
    tower: CLIPTextModel,
    state: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    name: str = "the checkpoint",
) -> None:
    """The same for the text tower; its last layer, projection and logit scale are known and not needed."""
    unread = re.compile(rf"transformer\.resblocks\.{tower.config.num_hidden_layers}\..+")
    text_keys = (key.removeprefix(layout.CLIP_PREFIX) for key in state if key.startswith(layout.CLIP_PREFIX))
    spare = {key for key in text_keys if unread.fullmatch(key)} | {"text_projection", "logit_scale", "attn_mask"}
    fill_network(
        tower,
        state,
        text_sources(tower),
        kind=KIND,
        name=name,
        prefixes=(layout.CLIP_PREFIX,),
        spare={layout.CLIP_PREFIX + key for key in spare},
        ignored=(layout.UNET_PREFIX, layout.VAE_PREFIX),
        dtype=dtype,
        device=device,
    )


def load_mvdream_checkpoint(
    path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> MVDreamModel:
    """UNet and autoencoder of an original ``sd-v2.1-base-4view.pt``, without text tower."""
    model = build_mvdream(empty=True)
    fill_from_checkpoint(model, read_state_dict(path), dtype, device, name=str(path))
    return model.to(device)


def has_original_unet(folder: str | Path) -> bool:
    """Whether the UNet of a folder keeps the original names of its tensors."""
    config = part_folder(folder, "unet") / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("_class_name") == ORIGINAL_UNET_CLASS


def load_folder_with_original_unet(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    text: bool = False,
    unet: Mapping[str, Any] | None = None,
) -> MVDreamModel:
    """A folder in diffusers layout but for its UNet, see ``has_original_unet``; checked as strictly as the original.

    Args:
        text: load the text tower too.
        unet: entries that override ``UNET_CONFIG``.
    """
    unet_folder = part_folder(folder, "unet")
    files = sorted(unet_folder.glob("*.safetensors")) or sorted(unet_folder.glob("*.bin"))
    full = [path for path in files if ".fp16." not in path.name]
    if not files:
        raise UserError(f"{unet_folder} holds neither .safetensors nor .bin")
    state = {key: value for path in full or files for key, value in read_state_dict(path).items()}
    with init_empty_weights(include_buffers=False):
        network = UNet2DConditionModel(**{**UNET_CONFIG, **(unet or {})}).eval()
    sources = {key: layout.unet_source(key, network.config) for key in network.state_dict()}
    fill_network(network, state, sources, kind=KIND, name=str(unet_folder), prefixes=("",), dtype=dtype, device=device)
    model = MVDreamModel(
        network,
        load_codec(part_folder(folder, "vae"), dtype),
        load_scheduler(part_folder(folder, "scheduler")),
        TextConditioner.load(folder, dtype) if text else None,
    )
    return model.to(device)
