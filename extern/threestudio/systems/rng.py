"""Random numbers of a run: what is saved, when it is restored, and who may not touch it.

States are plain values that a checkpoint opened with ``weights_only=True`` may hold.
"""

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

__all__ = ["RandomState", "get_rng_state", "set_rng_state"]

RNG_KEY = "threestudio_rng"  # where a checkpoint keeps the generators: a list, by rank


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


class RandomState(pl.Callback):
    """The one place that saves, restores and shields the random numbers of training. First in the list of callbacks.

    A resumed run draws the numbers that the uninterrupted run would have drawn: the generators go into every full
    checkpoint and are set again right before the first step, because what Lightning does until then (building networks
    and loaders, fetching ahead) draws numbers as well. Validation, from building its loader to its last hook, leaves
    the generators as it found them, so whether and how often it runs does not change the training.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] | None = None
        self._training: dict[str, Any] | None = None  # of this process, while validation runs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            loop = trainer.fit_loop.epoch_loop.val_loop
            # no hook comes before Lightning builds the loader and its iterator, which draws its seed
            loop.run = self._shielded(type(loop).run.__get__(loop))

    def _shielded(self, run: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(run)
        def shielded() -> Any:
            self._training = get_rng_state()
            try:
                return run()
            finally:
                set_rng_state(self._training)
                self._training = None

        return shielded

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = get_rng_state() if self._training is None else self._training
        states: list[Any] = [state]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, state)
        checkpoint[RNG_KEY] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = checkpoint.get(RNG_KEY)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if self._loaded is not None and trainer.global_rank < len(self._loaded):  # more processes keep their seeds
            set_rng_state(self._loaded[trainer.global_rank])
        self._loaded = None
