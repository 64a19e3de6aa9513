"""Small helpers: schedules, devices and ranks, reading weights, cleaning up."""

import gc
import importlib.util
import logging
import os
from collections.abc import Iterable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import torch
from omegaconf import OmegaConf
from packaging import version

from threestudio.utils.errors import CheckpointError, CheckpointNotFoundError
from threestudio.utils.weights import read_checkpoint

__all__ = [
    "C",
    "barrier",
    "broadcast",
    "cleanup",
    "enable_gradient",
    "find_last_path",
    "finish_with_cleanup",
    "get_device",
    "get_rank",
    "load_module_weights",
    "parse_version",
    "set_device",
    "tinycudann",
]

logger = logging.getLogger(__name__)

_device: torch.device | None = None


def parse_version(ver: str) -> version.Version:
    """Comparable form of a version string."""
    return version.parse(ver)


def get_rank() -> int:
    """Global rank of this process, 0 when nothing says otherwise."""
    for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        value = os.environ.get(key)
        if value is not None:
            return int(value)
    return 0


def set_device(device: Any = None) -> None:
    """Fix what ``get_device`` returns, for a run whose accelerator is chosen by hand; None goes back to automatic."""
    global _device
    _device = None if device is None else torch.device(device)


def get_device() -> torch.device:
    """Device of this process: its own GPU by local rank, or the CPU when there is no GPU."""
    if _device is not None:
        return _device
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    index = int(local) if local is not None else get_rank()
    return torch.device("cuda", index % max(torch.cuda.device_count(), 1))


def tinycudann() -> ModuleType | None:
    """The package tinycudann, or None on the CPU and where it is not installed: PyTorch then does its work."""
    return _import_tinycudann() if get_device().type == "cuda" else None


@cache
def _import_tinycudann() -> ModuleType | None:
    if importlib.util.find_spec("tinycudann") is None:
        return None
    try:
        import tinycudann as tcnn
    except (ImportError, OSError) as error:  # it raises OSError when it was built for another card
        logger.warning("tinycudann does not load (%s): encodings and networks run in PyTorch", error)
        return None
    return tcnn


def C(value: Any, epoch: int, global_step: int, interpolation: str = "linear") -> Any:
    """Value of a schedule now.

    A number is itself. ``[v0, v1, s1]`` is ``[0, v0, v1, s1]``. ``[s0, v0, v1, s1]`` holds ``v0`` until ``s0``, moves
    to ``v1`` at ``s1`` and stays. ``[s0, v0, v1, s1, v2, s2, ...]`` goes on through ``(s2, v2)`` and so forth. The
    clock is ``global_step`` if the end of the active segment is an int, ``epoch`` if it is a float; which segment of a
    long form is active is always decided by ``global_step``. For example ``C([100, 1.0, 0.0, 300], 0, 200) == 0.5``.

    Args:
        interpolation: ``"linear"``, or ``"exp"`` (geometric; values must be positive).

    Raises:
        TypeError: a mapping. ValueError: text, None, or a wrong interpolation. AssertionError: 2, 5 or other odd
            lengths.
    """
    if isinstance(value, (int, float)):
        return value
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, dict):
        raise TypeError(f"A schedule is a number or a list, not a mapping: {value}.")
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"A schedule is a number or a list like [0, 1.0, 0.5, 1000], got {value!r}.")
    items = list(value)
    if len(items) == 3:
        items = [0, *items]
    assert len(items) == 4 or (len(items) >= 6 and len(items) % 2 == 0), (
        f"A schedule list has 3 items, 4, or an even number from 6 on, got {len(items)}: {items}."
    )
    if any(isinstance(i, bool) or not isinstance(i, (int, float)) for i in items):
        raise ValueError(f"A schedule list holds numbers only, got {items}.")
    if len(items) > 4:
        items = _active_segment(items, global_step)
    start_step, start_value, end_value, end_step = items
    now = global_step if isinstance(end_step, int) else epoch
    if end_step == start_step:
        fraction = float(now >= end_step)
    else:
        fraction = max(min(1.0, (now - start_step) / (end_step - start_step)), 0.0)
    if interpolation == "linear":
        return start_value + (end_value - start_value) * fraction
    if interpolation == "exp":
        if start_value <= 0 or end_value <= 0:
            raise ValueError(f"Geometric interpolation needs positive values, got {start_value} and {end_value}.")
        return start_value * (end_value / start_value) ** fraction
    raise ValueError(f"interpolation is 'linear' or 'exp', got {interpolation!r}.")


def _active_segment(items: list, global_step: int) -> list:
    """``[start step, start value, end value, end step]`` of a long schedule: the first that ends after
    ``global_step``.
    """
    knots = [(items[0], items[1])] + [(items[i + 1], items[i]) for i in range(2, len(items), 2)]
    for (s0, v0), (s1, v1) in zip(knots[:-1], knots[1:], strict=True):
        if global_step < s1 or (s1, v1) == knots[-1]:
            return [s0, v0, v1, s1]
    raise AssertionError("unreachable: the last segment always matches")


def load_module_weights(
    path: str,
    module_name: str | None = None,
    ignore_modules: Iterable[str] | None = None,
    map_location: Any = None,
) -> tuple[dict[str, torch.Tensor], int, int]:
    """Weights of one module, or all but some modules, from a checkpoint.

    Args:
        path: Lightning checkpoint, plain state dict, or ``.safetensors``. Never unpickled freely.
        module_name: keep ``<module_name>.*`` and strip the prefix; excludes ``ignore_modules``.
        ignore_modules: drop ``<name>.*`` for each name.

    Returns:
        state dict, epoch, global step (0 where the file has none).
    """
    if module_name is not None and ignore_modules is not None:
        raise ValueError("Give module_name or ignore_modules, not both.")
    checkpoint = read_checkpoint(path, map_location=map_location)
    state_dict = checkpoint["state_dict"]
    if ignore_modules is not None:
        prefixes = tuple(f"{name}." for name in ignore_modules)
        state_dict = {k: v for k, v in state_dict.items() if not (prefixes and k.startswith(prefixes))}
    if module_name is not None:
        prefix = f"{module_name}."
        names = sorted({k.split(".")[0] for k in state_dict})
        state_dict = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
        if not state_dict:
            raise CheckpointError(f"'{path}' has no weights for the module '{module_name}'; it has {', '.join(names)}.")
    return state_dict, checkpoint["epoch"], checkpoint["global_step"]


def find_last_path(path: str | None) -> str | None:
    """Replace ``LAST`` in a path by the newest match: ``outputs/x/prompt@LAST/ckpts/last.ckpt``.

    Spaces become underscores in such a path, and of all siblings that share the text before ``LAST`` the greatest name
    wins.

    Raises:
        CheckpointNotFoundError: the resulting path does not exist (also a ``FileNotFoundError``).
    """
    if path is None:
        return None
    if "LAST" in path:
        path = path.replace(" ", "_")
        before, after = path.split("LAST", 1)
        folder, prefix = os.path.split(before)
        siblings = (
            sorted(d for d in os.listdir(folder or ".") if d.startswith(prefix)) if os.path.isdir(folder or ".") else []
        )
        if not siblings:
            raise CheckpointNotFoundError(f"Nothing matches '{before}*'.")
        path = os.path.join(folder, siblings[-1] + after)
    if not os.path.exists(path):
        raise CheckpointNotFoundError(f"'{path}' does not exist.")
    return path


def cleanup() -> None:
    """Collect garbage and give cached GPU memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def finish_with_cleanup(func):
    """Decorator: ``cleanup()`` after the function returns."""

    def wrapper(*args, **kwargs):
        out = func(*args, **kwargs)
        cleanup()
        return out

    return wrapper


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    """Wait for all processes; nothing when there is one."""
    if _distributed():
        torch.distributed.barrier()


def broadcast(tensor: torch.Tensor, src: int = 0) -> torch.Tensor:
    """Copy ``tensor`` of process ``src`` to all, in place."""
    if _distributed():
        torch.distributed.broadcast(tensor, src=src)
    return tensor


def enable_gradient(model: torch.nn.Module, enabled: bool = True) -> None:
    """Switch ``requires_grad`` of all parameters."""
    for parameter in model.parameters():
        parameter.requires_grad_(enabled)
