"""Key layout of original checkpoints (latent-diffusion, OpenAI CLIP and OpenCLIP naming) against ours.

For every tensor of a ``UNet2DConditionModel``, an ``AutoencoderKL``, a ``CLIPVisionModelWithProjection`` and a
``CLIPTextModel`` these functions say which tensor of the original layout it comes from, and how. They follow the
networks' configs, so the same code describes the published sizes and the small sizes that the tests use.

A source is ``(key, operation)``. Operations turn the original tensor into ours:

* ``same``
* ``squeeze``: a 1x1 convolution ``[o, i, 1, 1]`` to a matrix ``[o, i]``
* ``transpose``: ``[i, o]`` to ``[o, i]``
* ``q``, ``k``, ``v``: first, second, last third of the rows of a fused projection
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from torch import Tensor

Operation = Literal["same", "squeeze", "transpose", "q", "k", "v"]

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "cond_stage_model.model."
CLIP_VISUAL_PREFIX = CLIP_PREFIX + "visual."
#: autoencoder and noise schedule that all published models of this family share, as diffusers names their settings
VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
    "sample_size": 256,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CAMERA_KEYS = {"weight": "cc_projection.weight", "bias": "cc_projection.bias"}


class Source(NamedTuple):
    """Where a tensor comes from: its key in the original layout and the operation that turns it into ours."""

    key: str
    operation: Operation = "same"


_RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}

# Numbers that a latent-diffusion model keeps among its tensors and that belong to no network.
NOT_NETWORKS = frozenset(
    {
        "model_ema.decay",
        "model_ema.num_updates",
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    }
)

_TEXT_REST = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}

_CLIP_REST = {
    "vision_model.embeddings.class_embedding": Source("class_embedding"),
    "vision_model.embeddings.position_embedding.weight": Source("positional_embedding"),
    "vision_model.embeddings.patch_embedding.weight": Source("conv1.weight"),
    "vision_model.pre_layrnorm.weight": Source("ln_pre.weight"),
    "vision_model.pre_layrnorm.bias": Source("ln_pre.bias"),
    "vision_model.post_layernorm.weight": Source("ln_post.weight"),
    "vision_model.post_layernorm.bias": Source("ln_post.bias"),
    "visual_projection.weight": Source("proj", "transpose"),
}


def ema_key(unet_key: str) -> str:
    """Key of the moving average of a UNet tensor: the name in the full model with all its dots removed.

    >>> ema_key("time_embed.0.weight")
    'model_ema.diffusion_modeltime_embed0weight'
    """
    return EMA_PREFIX + ("diffusion_model." + unet_key).replace(".", "")


def unet_source(key: str, config: dict) -> Source:
    """Source of a ``UNet2DConditionModel`` tensor, without prefix.

    ``config`` is the network's: ``layers_per_block`` and ``up_block_types`` are read.
    """
    per_block = config["layers_per_block"]
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "class_embedding.linear_1": "camera_embed.0",  # of MVDream
        "class_embedding.linear_2": "camera_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    stem, _, kind = key.rpartition(".")
    if stem in fixed:
        return Source(f"{fixed[stem]}.{kind}")
    parts = "resnets|attentions|downsamplers|upsamplers"
    match = re.fullmatch(rf"(down_blocks|up_blocks)\.(\d+)\.({parts})\.(\d+)\.(.+)", key)
    if match:
        side, block, part, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if part == "downsamplers":
            return Source(f"input_blocks.{(block + 1) * (per_block + 1)}.0.op.{kind}")
        if part == "upsamplers":
            place = 2 if "Attn" in config["up_block_types"][block] else 1
            return Source(f"output_blocks.{block * (per_block + 1) + per_block}.{place}.conv.{kind}")
        number = block * (per_block + 1) + layer
        prefix = f"input_blocks.{1 + number}" if side == "down_blocks" else f"output_blocks.{number}"
        if part == "attentions":
            return Source(f"{prefix}.1.{rest}")
        return Source(f"{prefix}.0.{_rename(rest, _RES_BLOCK)}")
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", key)
    if match:
        if match[1] == "attentions":
            return Source(f"middle_block.1.{match[3]}")
        return Source(f"middle_block.{2 * int(match[2])}.{_rename(match[3], _RES_BLOCK)}")
    raise KeyError(f"the original layout has no place for the UNet tensor {key}")


def vae_source(key: str, config: dict) -> Source:
    """Source of an ``AutoencoderKL`` tensor, without prefix. ``config`` has the network's ``block_out_channels``."""
    if key.startswith(("quant_conv.", "post_quant_conv.")):
        return Source(key)
    side, _, rest = key.partition(".")
    match = re.fullmatch(r"(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", rest)
    if match:
        block, part, layer, tail = int(match[1]), match[2], match[3], match[4]
        if side == "decoder":  # the original counts decoder blocks from the finest
            block = len(config["block_out_channels"]) - 1 - block
        name = "down" if side == "encoder" else "up"
        if part != "resnets":
            return Source(f"{side}.{name}.{block}.{part.removesuffix('rs')}.{tail}")
        return Source(f"{side}.{name}.{block}.block.{layer}.{_rename(tail, {'conv_shortcut': 'nin_shortcut'})}")
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", rest)
    if match and match[1] == "resnets":
        return Source(f"{side}.mid.block_{int(match[2]) + 1}.{_rename(match[3], {'conv_shortcut': 'nin_shortcut'})}")
    if match:
        matrix = match[3].endswith(".weight") and not match[3].startswith("group_norm")
        return Source(f"{side}.mid.attn_1.{_rename(match[3], _VAE_ATTENTION)}", "squeeze" if matrix else "same")
    return Source(f"{side}.{_rename(rest, {'conv_norm_out': 'norm_out'})}")


def clip_source(key: str) -> Source:
    """Source of a ``CLIPVisionModelWithProjection`` tensor in OpenAI's layout, without prefix."""
    if key in _CLIP_REST:
        return _CLIP_REST[key]
    match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(.+)", key)
    if match is None:
        raise KeyError(f"the original layout has no place for the CLIP tensor {key}")
    return _clip_layer_source(match[1], match[2])


def text_source(key: str) -> Source:
    """Source of a ``CLIPTextModel`` tensor in OpenCLIP's layout, without prefix.

    Transformers 4 begins the names with ``text_model.``, transformers 5 does not.
    """
    short = key.removeprefix("text_model.")
    if short in _TEXT_REST:
        return Source(_TEXT_REST[short])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", short)
    if match is None:
        raise KeyError(f"the original layout has no place for the tensor {key} of a text tower")
    return _clip_layer_source(match[1], match[2])


def _clip_layer_source(layer: str, rest: str) -> Source:
    prefix = f"transformer.resblocks.{layer}"
    fused = re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", rest)
    if fused:
        return Source(f"{prefix}.attn.in_proj_{fused[2]}", fused[1])  # type: ignore[arg-type]
    return Source(f"{prefix}.{_rename(rest, _CLIP_LAYER)}")


def original_shape(shape: tuple[int, ...], operation: Operation) -> tuple[int, ...]:
    """Shape of the original tensor, from the shape of ours."""
    if operation == "squeeze":
        return (*shape, 1, 1)
    if operation == "transpose":
        return tuple(reversed(shape))
    if operation in ("q", "k", "v"):
        return (3 * shape[0], *shape[1:])
    return tuple(shape)


def apply(tensor: Tensor, operation: Operation) -> Tensor:
    """Our tensor from the original one."""
    if operation == "squeeze":
        return tensor[:, :, 0, 0]
    if operation == "transpose":
        return tensor.T
    if operation in ("q", "k", "v"):
        return tensor.chunk(3)["qkv".index(operation)]
    return tensor


def _rename(key: str, names: dict[str, str]) -> str:
    stem, _, kind = key.rpartition(".")
    return f"{names.get(stem, stem)}.{kind}"
