"""Single pictures through a text-to-video network: everything that looks across frames is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch.nn as nn
from diffusers import UNet3DConditionModel
from torch import Tensor

# Known by name: releases of diffusers keep these classes in different modules.
_TRANSFORMER, _CONVOLUTION = "TransformerTemporalModel", "TemporalConvLayer"


def temporal_modules(unet: UNet3DConditionModel) -> list[nn.Module]:
    """The temporal transformers (``transformer_in`` too) and temporal convolutions; each adds to its input."""
    return [module for module in unet.modules() if type(module).__name__ in (_TRANSFORMER, _CONVOLUTION)]


@contextmanager
def temporal_bypass(unet: UNet3DConditionModel, keep_middle: bool = False) -> Iterator[None]:
    """Within the context every temporal module hands on its input: each frame is denoised on its own.

    A ModelScope UNet is a Stable Diffusion UNet with temporal modules between its layers; ModelScope's own code skips
    them for a clip of one frame, diffusers does not, and an untrained temporal convolution on one frame is not nothing.
    MotionDirector (Zhao et al., ECCV 2024) trains its spatial adapters on single frames through this.

    Args:
        keep_middle: the first temporal convolution of the middle block runs, on each frame alone. MotionDirector's code
            does so unless gradient checkpointing is on; its published training configs have it on, and thus skip it.
    """
    modules = temporal_modules(unet)
    before = [module.__dict__.get("forward") for module in modules]  # someone else's patch, if any
    middle = unet.mid_block.temp_convs[0] if keep_middle else None
    for module in modules:
        if module is middle:
            module.forward = partial(_one_by_one, module.forward)
        else:
            module.forward = _hand_on if type(module).__name__ == _TRANSFORMER else _identity
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _one_by_one(forward: Callable[..., Tensor], hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
    return forward(hidden_states, num_frames=1)


def _identity(hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
    return hidden_states


def _hand_on(hidden_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor]:
    return (hidden_states,)
