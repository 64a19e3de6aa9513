"""Bit for bit: k steps, anything that only looks, and k more are 2k steps."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest_launch import call

TRIAL = Path("outputs/tiny/run")
TRAIN = ("--config", "tiny.yaml", "--train", "trainer.limit_test_batches=0")
EVERY_STEP = ("checkpoint.every_n_train_steps=1", "trainer.val_check_interval=1")


def state_of(checkpoint: Path) -> dict[str, Any]:
    content = torch.load(checkpoint, weights_only=True)
    return {key: content[key] for key in ("global_step", "state_dict", "optimizer_states", "threestudio_rng")}


def assert_same(found: Any, wanted: Any, path: str = "") -> None:
    assert type(found) is type(wanted), path
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), path
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), path
        for key in wanted:
            assert_same(found[key], wanted[key], f"{path}.{key}")
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), path
        for i, pair in enumerate(zip(found, wanted, strict=True)):
            assert_same(*pair, f"{path}[{i}]")
    else:
        assert found == wanted, path


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.limit_val_batches=0",),
        ("trainer.val_check_interval=1",),
        ("trainer.num_sanity_val_steps=2", "trainer.val_check_interval=3"),
        ("trainer.limit_val_batches=0", "checkpoint.every_n_train_steps=3", "trainer.log_every_n_steps=3"),
    ],
)
def test_looking_does_not_change_the_training(trained, workdir, overrides):
    result = call(workdir, *TRAIN, *overrides)
    assert result.code == 0, result.text
    assert_same(state_of(workdir / TRIAL / "ckpts/last.ckpt"), state_of(trained[0] / TRIAL / "ckpts/last.ckpt"))


@pytest.fixture(scope="module")
def at_every_step(tmp_path_factory, trained) -> Path:
    """A run that validates and saves after each of its eight steps."""
    folder = tmp_path_factory.mktemp("every")
    for name in ("custom", "tiny.yaml"):
        source = trained[0] / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    result = call(folder, *TRAIN, *EVERY_STEP)
    assert result.code == 0, result.text
    return folder / TRIAL / "ckpts"


@pytest.mark.parametrize("step", [1, 4, 7])
def test_resume_at_a_step_of_validation(at_every_step, trained, workdir, step):
    result = call(workdir, *TRAIN, f"resume={at_every_step}/epoch=0-step={step}.ckpt", "exp_root_dir=outputs")
    assert result.code == 0, result.text
    assert_same(state_of(workdir / TRIAL / "ckpts/last.ckpt"), state_of(trained[0] / TRIAL / "ckpts/last.ckpt"))


def test_validation_test_and_export_between_two_halves(trained, workdir):
    for arguments in (
        ("--train", "trainer.max_steps=4"),
        ("--validate", "resume=last"),
        ("--test", "resume=last"),
        ("--train", "resume=last", "trainer.max_steps=5", "trainer.val_check_interval=1"),
        ("--export", "resume=last"),
        ("--train", "resume=last"),
    ):
        result = call(workdir, "--config", "tiny.yaml", *arguments)
        assert result.code == 0, result.text
    assert_same(state_of(workdir / TRIAL / "ckpts/last.ckpt"), state_of(trained[0] / TRIAL / "ckpts/last.ckpt"))
