"""The generators of a run: a checkpoint that is written while validation runs holds those of the training."""

import torch
from torch import nn

from threestudio.systems.rng import RNG_KEY, RandomState, get_rng_state


class _Loop:
    def run(self) -> None:
        self.body()


class _Trainer:
    """As much of a trainer as the callback sees."""

    world_size, global_rank = 1, 0

    def __init__(self) -> None:
        self.val_loop = _Loop()
        self.fit_loop = self.epoch_loop = self


def test_validation_is_shielded_and_saves_the_numbers_of_training():
    trainer, state = _Trainer(), RandomState()
    state.setup(trainer, nn.Module(), "fit")
    state.setup(trainer, nn.Module(), "fit")  # a trainer that fits twice
    saved: dict = {}

    def validate() -> None:
        torch.randn(3)
        state.on_save_checkpoint(trainer, nn.Module(), saved)

    trainer.val_loop.body = validate
    before = get_rng_state()
    trainer.val_loop.run()
    after = get_rng_state()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["torch"], saved[RNG_KEY][0]["torch"])
    torch.randn(3)
    state.on_save_checkpoint(trainer, nn.Module(), saved)
    assert not torch.equal(before["torch"], saved[RNG_KEY][0]["torch"])
