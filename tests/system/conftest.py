"""A run of Consistent4D small enough for a test: a clip of five 16x16 frames, random weights, a linear interpolator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

import threestudio
import threestudio_4d  # noqa: F401  (registers the parts)
from threestudio.systems.rng import RandomState
from threestudio.utils.base import BaseObject
from threestudio.utils.config import load_config
from threestudio.utils.misc import set_device
from threestudio_4d.tiny_priors.zero123.networks import build_zero123_tiny

REPOSITORY = Path(__file__).resolve().parents[2]
N_FRAMES = 5


def register_once(name):
    """Register a class of a test, once for the process."""

    def decorate(registered):
        return registered if name in threestudio.__modules__ else threestudio.register(name)(registered)

    return decorate


@register_once("test-linear-interpolator")
class LinearInterpolator(BaseObject):
    """Mixes the two ends, and counts its calls."""

    @dataclass
    class Config(BaseObject.Config):
        pass

    def configure(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, first, last, timesteps):
        self.shapes.append(tuple(first.shape))
        return torch.stack([first * (1 - t) + last * t for t in timesteps], dim=1)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """A coloured disc that moves from left to right."""
    folder = tmp_path_factory.mktemp("clip")
    rows, columns = np.mgrid[0:32, 0:32]
    for frame in range(N_FRAMES):
        inside = (rows - 16) ** 2 + (columns - 11 - 2 * frame) ** 2 < 49
        rgba = np.zeros((32, 32, 4), np.uint8)
        rgba[inside] = [200, 60 + 20 * frame, 40, 255]
        Image.fromarray(rgba).save(folder / f"{frame}.png")
    return folder


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory) -> Path:
    """An untrained prior for 16x16 pictures."""
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    build_zero123_tiny(image_size=16, channels=(16, 32, 32), encoder_width=32, encoder_layers=1).save(folder)
    return folder


@dataclass
class Run:
    """A configured run that can be trained, tested and exported in this process."""

    cfg: object
    datamodule: pl.LightningDataModule
    system: pl.LightningModule
    save_dir: Path
    accelerator: str

    def trainer(self, max_steps: int = 0, **options: object) -> pl.Trainer:
        return pl.Trainer(
            max_steps=max_steps,
            callbacks=[RandomState()],
            accelerator=self.accelerator,
            devices=1,
            precision=self.cfg.trainer.precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            inference_mode=False,
            **options,
        )

    def fit(self, max_steps: int, resume: Path | None = None, **options: object) -> pl.Trainer:
        trainer = self.trainer(max_steps, **options)
        arguments = {"weights_only": False} if resume is not None else {}
        trainer.fit(self.system, self.datamodule, ckpt_path=resume, **arguments)
        return trainer


@pytest.fixture
def make_run(request, tmp_path, tiny_clip, tiny_prior):
    """``make_run(*overrides)`` builds the run of ``configs/consistent4d.yaml``, reduced to the size of a test.

    It runs on the CPU, also where there is a GPU, except in tests marked ``gpu``.
    """
    accelerator = "gpu" if request.node.get_closest_marker("gpu") else "cpu"
    small = [
        f"exp_root_dir={tmp_path}/outputs",
        f"data.image_seq_path={tiny_clip}",
        "data.loop=false",
        "data.height=[12,16]",
        "data.resolution_milestones=[2]",
        "data.ref_batch_size=1",
        "data.eval_height=16",
        "data.eval_width=16",
        "data.n_test_views=4",
        "data.n_val_views=2",
        "data.n_val_times=2",
        "system.geometry.grid_size=[[8,8,8,4],[12,12,12,4]]",
        "system.geometry.n_grid_dims=4",
        "system.renderer.num_samples_per_ray=24",
        f"system.guidance.pretrained_model_name_or_path={tiny_prior}",
        "system.guidance.half_precision_weights=false",
        "system.interpolator_type=test-linear-interpolator",
        "system.eval_frame_size=32",
        "system.exporter.resolution=24",
        "trainer.max_steps=4",
    ]
    count = 0

    def build(*overrides: str) -> Run:
        nonlocal count
        cfg = load_config(str(REPOSITORY / "configs" / "consistent4d.yaml"), cli_args=[*small, *overrides], n_gpus=1)
        set_device(torch.device("cuda", 0) if accelerator == "gpu" else torch.device("cpu"))
        pl.seed_everything(cfg.seed)
        datamodule = threestudio.find(cfg.data_type)(cfg.data)
        system = threestudio.find(cfg.system_type)(cfg.system, resumed=False)
        save_dir = tmp_path / f"save{count}"
        count += 1
        system.set_save_dir(str(save_dir))
        return Run(cfg, datamodule, system, save_dir, accelerator)

    yield build
    set_device(None)


@pytest.fixture
def spy():
    """``spy(owner, name)`` counts calls of a method and keeps their results."""

    def watch(owner, name):
        original, seen = getattr(owner, name), SimpleNamespace(results=[], arguments=[])

        def wrapper(*args, **kwargs):
            seen.arguments.append((args, kwargs))
            seen.results.append(original(*args, **kwargs))
            return seen.results[-1]

        setattr(owner, name, wrapper)
        return seen

    return watch
