"""The smallest extension that trains: a few numbers pulled toward a target, with noise. For the launcher's tests."""

import os
import random
import sys  # noqa: F401 - for the faults that tests ask for
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

import threestudio
from threestudio.systems.base import BaseSystem
from threestudio.utils.config import parse_structured
from threestudio.utils.errors import UserError


class Forever(IterableDataset):
    def __iter__(self) -> Any:
        while True:
            yield {}


class Views(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"index": index}


@threestudio.register("tiny-datamodule")
class TinyData(pl.LightningDataModule):
    @dataclass
    class Config:
        n_test_views: int = 3

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Forever(), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Views(1), batch_size=None)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(Views(self.cfg.n_test_views), batch_size=None)

    predict_dataloader = test_dataloader


@threestudio.register("tiny-system")
class TinySystem(BaseSystem):
    @dataclass
    class Config(BaseSystem.Config):
        n_values: int = 4
        target: float = 1.0
        step_seconds: float = 0.0
        validation_seconds: float = 0.0
        fail_at: int = -1
        fail_to_start: bool = False
        fault: str = ""
        fill_disk_at: int = -1
        spoil_at: int = -1

    cfg: Config

    def configure(self) -> None:
        self.values = torch.nn.Parameter(torch.zeros(self.cfg.n_values))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.cfg.fail_to_start:
            raise UserError("The weights of the prior are missing.")
        exec(self.cfg.fault)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        step = self.true_global_step
        if step == self.cfg.fail_at:
            raise ZeroDivisionError("a fault in the code")
        if step == self.cfg.fill_disk_at:
            _fill_disk()
        time.sleep(self.cfg.step_seconds)
        noise = torch.randn_like(self.values) + random.random() + np.random.rand()
        loss = ((self.values - self.cfg.target + 0.1 * noise) ** 2).mean()
        self.log("train/loss", loss)
        return {"loss": loss}

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """As an optimizer with an unlucky setting would do."""
        if self.true_global_step == self.cfg.spoil_at:
            self.values.data[0] = float("nan")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.cfg.validation_seconds)
        torch.randn(7), np.random.rand(7), random.random()  # must not change the training
        self.save_data(f"it{self.true_global_step}-val.npy", self.values.detach().cpu().numpy())

    def on_validation_epoch_end(self) -> None:
        pass

    def test_step(self, batch: Any, batch_idx: int) -> None:
        image = np.full((16, 16, 3), 0.2 + 0.2 * batch["index"], dtype=np.float32)
        self.save_rgb_image(f"it{self.true_global_step}-test/{batch['index']}.png", torch.from_numpy(image))

    def on_test_epoch_end(self) -> None:
        name = f"it{self.true_global_step}-test"
        self.save_img_sequence(name, name, r"(\d+)\.png", save_format="mp4", fps=10)

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_predict_epoch_end(self) -> None:
        self.save_json(f"it{self.true_global_step}-export/values.json", {"values": self.values.tolist()})


def _fill_disk() -> None:
    """From now on every write of a checkpoint fails the way a full disk makes it fail."""
    import errno

    from threestudio.utils import checkpoint_io

    def refuse(self: Any, data: Any) -> int:
        self.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    checkpoint_io._WatchedFile.write = refuse
