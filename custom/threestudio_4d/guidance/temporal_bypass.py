"""Single pictures through a text-to-video network: everything that looks across frames is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn as nn
from diffusers import UNet3DConditionModel
from torch import Tensor

# Known by name: releases of diffusers keep these classes in different modules.
_TRANSFORMER, _CONVOLUTION = "TransformerTemporalModel", "TemporalConvLayer"


def temporal_modules(unet: UNet3DConditionModel) -> list[nn.Module]:
    """The temporal transformers (``transformer_in`` too) and temporal convolutions; each adds to its input."""
    return [module for module in unet.modules() if type(module).__name__ in (_TRANSFORMER, _CONVOLUTION)]


@contextmanager
def temporal_bypass(unet: UNet3DConditionModel) -> Iterator[None]:
    """Within the context every temporal module hands on its input: each frame is denoised on its own.

    A ModelScope UNet is a Stable Diffusion UNet with temporal modules between its layers; ModelScope's own code skips
    them for a clip of one frame, diffusers does not, and an untrained temporal convolution on one frame is not nothing.
    MotionDirector (Zhao et al., ECCV 2024) trains its spatial adapters on single frames through this.
    """
    modules = temporal_modules(unet)
    before = [module.__dict__.get("forward") for module in modules]  # someone else's patch, if any
    for module in modules:
        module.forward = _hand_on if type(module).__name__ == _TRANSFORMER else _identity
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _identity(hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
    return hidden_states


def _hand_on(hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor]:
    return (hidden_states,)
