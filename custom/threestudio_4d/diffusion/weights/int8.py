"""Weights stored in 8 bits: a quarter of single precision on disk, single precision again when loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .files import check_weight_file

FILE_NAME = "weights.int8.safetensors"
SUFFIX = ".scale"
# The first and the last layer stay in half precision: small, and behind nearly all of what 8 bits cost a denoiser of
# pixels (10 % of the loss of t2v-tiny, 1 % without them).
KEPT_LAYERS = ("conv_in", "conv_out")


def quantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels [out, ...] become int8 with one half-precision scale for each output channel; the rest half.

    The scale of ``name`` stands under ``name.scale``: weight = int8 * scale. ``KEPT_LAYERS`` and vectors are halved.
    """
    stored = {}
    for name, value in state.items():
        kept = value.ndim < 2 or any(part in KEPT_LAYERS for part in name.split("."))
        if kept or not value.is_floating_point():
            stored[name] = value.half().contiguous() if value.is_floating_point() else value.contiguous()
            continue
        rows = value.float().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp_min(1e-7).half()
        codes = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        stored[name] = codes.view_as(value).contiguous()
        stored[name + SUFFIX] = scale
    return stored


def restore(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of ``quantise``, in single precision up to the rounding of the codes."""
    state = {}
    for name, value in stored.items():
        if name + SUFFIX in stored:
            scale = stored[name + SUFFIX].float().view(-1, *[1] * (value.ndim - 1))
            state[name] = value.float() * scale
        elif not name.endswith(SUFFIX):
            state[name] = value.float() if value.is_floating_point() else value
    return state


def save_int8(state: dict[str, Tensor], folder: Path) -> None:
    """Write ``folder/weights.int8.safetensors``."""
    save_file(quantise(state), folder / FILE_NAME)


def load_int8(folder: Path) -> dict[str, Tensor] | None:
    """The state stored in a folder, or None if it holds no 8-bit weights."""
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    check_weight_file(path)
    return restore(load_file(path))
