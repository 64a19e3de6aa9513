"""Reading weights of IFNet: strictly, and never by running code from a file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import UserError
from .ifnet import IFNet

# Parts that published files of the family carry for training only; the interpolating network does not have them.
TRAINING_ONLY = ("block_tea.", "contextnet.", "unet.")
# What torch.load raises for files that are damaged, are not checkpoints, or hold more than tensors.
_UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
)


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of each of the 120 entries."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in IFNet().state_dict().items()}


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights in a ``.safetensors`` file or a torch checkpoint (``flownet.pkl``), on the CPU in float32.

    A checkpoint is read with ``weights_only=True``, so a pickle that holds anything but tensors is refused unexecuted.

    Raises:
        UserError: no such file, not readable as weights, or not the weights of RIFE v4.6 (:func:`check_state`).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no RIFE weights at {path}: {'that is a folder' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path, device="cpu")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read the RIFE weights {path}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, *_UNREADABLE) as error:
        raise UserError(
            f"{path} is not a file of weights: it is damaged, of another kind, or a pickle that holds more than "
            "tensors (such files are never loaded, because they can run code)"
        ) from error
    return check_state(state, str(path))


def check_state(state: object, source: str) -> dict[str, Tensor]:
    """Check that ``state`` holds exactly the parameters of IFNet, and normalise it.

    The prefix ``module.`` of published checkpoints is removed, training-only parts are left out, values become float32.

    Args:
        state: what was in the file.
        source: how error messages call the file.

    Raises:
        UserError: for missing, unknown or misshapen entries, saying which version of RIFE it looks like, and for values
            that are not finite.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{source} is not a flat table of named tensors, so not weights of RIFE")
    tensors = {str(key).removeprefix("module."): value for key, value in state.items()}
    tensors = {key: value for key, value in tensors.items() if not key.startswith(TRAINING_ONLY)}
    expected = expected_shapes()
    missing = [key for key in expected if key not in tensors]
    unknown = [key for key in tensors if key not in expected]
    misshapen = [
        f"{key} is {list(tensors[key].shape)} and should be {list(shape)}"
        for key, shape in expected.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    faults = [
        f"{len(found)} {kind} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
        for kind, found in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if found
    ]
    if faults:
        raise UserError(f"{source} does not hold the weights of RIFE v4.6: {'; '.join(faults)}.{_looks_like(tensors)}")
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{source} holds values that are not finite, in {broken[0]}: the file is damaged")
    return {key: tensors[key].to(torch.float32).contiguous() for key in expected}


def _looks_like(tensors: Mapping[str, Tensor]) -> str:
    """A guess at what the file is instead, from the marks by which RIFE's versions differ."""
    last = tensors.get("block0.lastconv.0.weight", tensors.get("block0.lastconv.weight"))
    if any(key.startswith("encode.") for key in tensors):
        version = "v4.7 or later, which has an image encoder"
    elif last is not None and last.dim() == 4 and last.shape[1] == 20:
        version = "v4.5"
    elif any(key.startswith("block0.convblock") for key in tensors) and "block0.convblock.0.beta" not in tensors:
        version = "v4.4 or earlier, without residual scaling"
    else:
        return ""
    return f" It looks like RIFE {version}; this network is v4.6."
