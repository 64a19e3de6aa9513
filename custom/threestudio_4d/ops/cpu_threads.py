"""Compiled CPU kernels without a threading layer: numba functions that release the GIL, run on a thread pool.

Work is cut into contiguous parts, one per torch thread. The cut depends only on the number of items and threads, and
every part writes its own buffers, so results repeat bit for bit for a fixed thread count.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from numba import njit

#: Below this many items per part, starting a thread costs more than it saves.
MIN_ITEMS_PER_PART = 512

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


#: Sums may be reordered into vector lanes (the order is fixed at compile time); NaN and infinity keep their meaning.
_OPTIONS = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}


def compiled(function: Callable) -> Callable:
    """Compile a kernel with the GIL released; keep the machine code on disk where a cache folder can be written.

    What a kernel calls is ``inlined``. A call would go to whichever copy of the callee the process has linked first:
    another one where the kernel was compiled than where it was loaded from disk, with other rounding.
    """
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba finds no writable cache folder
        return njit(**_OPTIONS)(function)


def inlined(function: Callable) -> Callable:
    """Compile a part of kernels, into each that calls it."""
    return njit(forceinline=True, **_OPTIONS)(function)


def partition(count: int) -> list[tuple[int, int]]:
    """Cut ``range(count)`` into at most ``torch.get_num_threads()`` contiguous (start, stop) parts."""
    parts = max(1, min(torch.get_num_threads(), count // MIN_ITEMS_PER_PART))
    bounds = [count * index // parts for index in range(parts + 1)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def run_parts(task: Callable[[int, int, int], None], parts: list[tuple[int, int]]) -> None:
    """Run ``task(part_index, start, stop)`` for every part, the first on the calling thread."""
    if len(parts) == 1:
        task(0, *parts[0])
        return
    key = (os.getpid(), len(parts) - 1)  # threads do not survive a fork
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(len(parts) - 1, thread_name_prefix="t4d-kernel")
    futures = [_pools[key].submit(task, index, *part) for index, part in enumerate(parts) if index > 0]
    task(0, *parts[0])
    for future in futures:
        future.result()
