"""State of all random number generators, as plain values that a checkpoint opened with ``weights_only=True``
may hold.
"""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["gather_rng_states", "get_rng_state", "restore_rng_state", "set_rng_state"]


def get_rng_state() -> dict[str, Any]:
    """State of Python's, numpy's and torch's generators, CPU and all visible GPUs."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Inverse of ``get_rng_state``; generators of GPUs that are not there are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for index, gpu_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(gpu_state.cpu(), index)


def gather_rng_states() -> list[dict[str, Any]]:
    """The states of all processes, by rank. Every process must call it."""
    state = get_rng_state()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states


def restore_rng_state(states: list[dict[str, Any]]) -> None:
    """Restore this process's entry of ``gather_rng_states``; a process without one keeps its seed."""
    rank = 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
    if rank < len(states):
        set_rng_state(states[rank])
