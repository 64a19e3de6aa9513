"""Lightning's trainer with its callbacks and loggers, from the sections ``trainer`` and ``checkpoint`` of a config."""

import os
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

import threestudio
from threestudio.systems.rng import RandomState
from threestudio.utils import misc
from threestudio.utils.arguments import construct
from threestudio.utils.callbacks import CodeSnapshotCallback, CustomProgressBar
from threestudio.utils.checkpoint_io import AtomicCheckpointIO, LastCheckpoint
from threestudio.utils.fitting import OptimizersFit


def trainer_settings(cfg: Any, verbose: bool) -> dict[str, Any]:
    """The config's ``trainer`` section with the device and our defaults filled in."""
    settings = dict(cfg.trainer)
    has_gpu = torch.cuda.is_available()
    settings.setdefault("accelerator", "gpu" if has_gpu else "cpu")
    if settings["accelerator"] == "cpu":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        missing = f"there is no GPU {visible}" if visible not in ("", "0", "-1") else "no GPU found"
        threestudio.info("running on the CPU" + ("" if has_gpu else f" ({missing})"))
        if hasattr(misc, "set_device"):
            misc.set_device("cpu")
    settings.setdefault("devices", -1 if has_gpu and settings["accelerator"] != "cpu" else 1)
    settings.setdefault("enable_model_summary", verbose)
    settings.setdefault("inference_mode", False)
    return settings


def build_trainer(cfg: Any, settings: dict[str, Any], system: Any, training: bool) -> pl.Trainer:
    """The trainer for ``settings`` (see :func:`trainer_settings`); only training writes checkpoints and logs."""
    checkpoint_io = AtomicCheckpointIO()
    callbacks: list[Any] = []
    loggers: list[Any] = []
    if settings.get("enable_progress_bar", True):
        callbacks.append(CustomProgressBar())
    if training:
        callbacks += training_callbacks(cfg, checkpoint_io)
        loggers += [
            TensorBoardLogger(cfg.trial_dir, name="tb_logs"),
            CSVLogger(cfg.trial_dir, name="csv_logs"),
            *system.get_loggers(),
        ]
    else:
        settings = {**settings, "enable_checkpointing": False}
    arguments = {"callbacks": callbacks, "logger": loggers or False, "plugins": [checkpoint_io], **settings}
    return construct("trainer", pl.Trainer, **arguments)


def training_callbacks(cfg: Any, checkpoint_io: AtomicCheckpointIO) -> list[Any]:
    folder = os.path.join(cfg.trial_dir, "ckpts")
    settings = dict(cfg.checkpoint)
    minutes = settings.pop("every_n_minutes", 2)
    keep_last = settings.pop("save_last", True)
    settings.setdefault("enable_version_counter", False)
    callbacks = [
        RandomState(),
        OptimizersFit(),
        LearningRateMonitor(logging_interval="step"),
        CodeSnapshotCallback(os.path.join(cfg.trial_dir, "code"), use_version=False),
        ModelCheckpoint(dirpath=folder, **settings),
    ]
    if keep_last:
        callbacks.append(LastCheckpoint(folder, minutes, checkpoint_io))
    return callbacks
