"""Runs that succeed: train, resume, validate, test, export, and what they write."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest_launch import LAUNCHER, Launched, call, environment

from threestudio.utils.typecheck import checked_modules

TRIAL = Path("outputs/tiny/run")
TRAIN = ("--config", "tiny.yaml", "--train")


def values_of(checkpoint: Path) -> torch.Tensor:
    return torch.load(checkpoint, weights_only=True)["state_dict"]["values"]


def test_training_ends_with_test_pass_and_says_where_results_are(trained):
    folder, result = trained
    assert result.code == 0, result.text
    trial = folder / TRIAL
    assert result.out.splitlines()[-1] == f"results in {TRIAL}: save/it8-test.mp4"
    assert (trial / "save/it8-test/2.png").is_file()
    assert (trial / "save/it4-val.npy").is_file()
    assert result.text.count("running on the CPU") == 1
    assert "it/s" in result.err and "left" in result.err and "loss" in result.err
    assert "Traceback" not in result.text


def test_training_leaves_snapshots_and_logs(trained):
    trial = trained[0] / TRIAL
    assert (trial / "configs/raw.yaml").read_text() == (trained[0] / "tiny.yaml").read_text()
    assert "max_steps: 8" in (trial / "configs/parsed.yaml").read_text()
    assert "--config tiny.yaml --train" in (trial / "cmd.txt").read_text()
    assert (trial / "code/custom/tiny_extension/__init__.py").is_file()
    assert "train/loss" in (trial / "csv_logs/version_0/metrics.csv").read_text()
    assert list((trial / "tb_logs/version_0").glob("events*"))


def test_checkpoints_hold_only_tensors_and_plain_values(trained):
    folder = trained[0] / TRIAL / "ckpts"
    assert {p.name for p in folder.iterdir()} == {"epoch=0-step=4.ckpt", "epoch=0-step=8.ckpt", "last.ckpt"}
    last = torch.load(folder / "last.ckpt", weights_only=True)
    assert last["global_step"] == 8
    assert last["optimizer_states"][0]["param_groups"][0]["betas"] == (0.9, 0.99)


def test_resumed_run_equals_uninterrupted_run(trained, workdir):
    first = call(workdir, *TRAIN, "trainer.max_steps=5", "trainer.limit_test_batches=0")
    assert first.code == 0, first.text
    assert not (workdir / TRIAL / "save/it5-test").exists()
    second = call(workdir, *TRAIN, "resume=last")
    assert second.code == 0, second.text
    whole = values_of(trained[0] / TRIAL / "ckpts/last.ckpt")
    assert torch.equal(values_of(workdir / TRIAL / "ckpts/last.ckpt"), whole)
    assert len((workdir / TRIAL / "cmd.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("where", ["", "/ckpts", "/ckpts/last.ckpt"])
def test_resume_from_a_run_goes_on_in_its_folder(trained_copy, where):
    (trained_copy / TRIAL).rename(trained_copy / "outputs/tiny/renamed")
    result = call(trained_copy, *TRAIN, f"resume=outputs/tiny/renamed{where}", "trainer.max_steps=10")
    assert result.code == 0, result.text
    assert "results in outputs/tiny/renamed" in result.out
    assert not (trained_copy / TRIAL).exists()
    assert torch.load(trained_copy / "outputs/tiny/renamed/ckpts/last.ckpt", weights_only=True)["global_step"] == 10


def test_a_resumed_run_with_another_tag_has_a_folder_of_its_own(trained_copy):
    before = (trained_copy / TRIAL / "ckpts/last.ckpt").read_bytes()
    result = call(trained_copy, *TRAIN, f"resume={TRIAL}", "trainer.max_steps=10", "tag=other")
    assert result.code == 0, result.text
    assert "results in outputs/tiny/other" in result.out
    assert (trained_copy / TRIAL / "ckpts/last.ckpt").read_bytes() == before
    other = trained_copy / "outputs/tiny/other"
    assert torch.load(other / "ckpts/last.ckpt", weights_only=True)["global_step"] == 10
    assert (other / "configs/raw.yaml").is_file() and "tag: other" in (other / "configs/parsed.yaml").read_text()


@pytest.mark.parametrize(
    ("mode", "file"),
    [("validate", "it8-val.npy"), ("test", "it8-test.mp4"), ("export", "it8-export/values.json")],
)
def test_evaluation_modes_use_the_checkpoint(trained_copy, mode, file):
    written = trained_copy / TRIAL / "save" / file
    written.unlink(missing_ok=True)
    result = call(trained_copy, "--config", "tiny.yaml", f"--{mode}", f"resume={TRIAL}/ckpts/last.ckpt")
    assert result.code == 0, result.text
    assert written.is_file()
    if mode == "validate":
        expected = values_of(trained_copy / TRIAL / "ckpts/last.ckpt").numpy()
        assert np.array_equal(np.load(written), expected)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_run_goes_on_from_its_last_checkpoint(workdir, trained, signum):
    """SIGKILL leaves the last periodic checkpoint; the others save the step at which they stop."""
    run = Launched(workdir, *TRAIN, "system.step_seconds=0.2", "checkpoint.every_n_train_steps=2")
    last = workdir / TRIAL / "ckpts/last.ckpt"
    while run.poll() is None and not last.is_file():
        time.sleep(0.02)
    os.kill(run.pid, signum)
    result = run.wait()
    assert result.code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[signum], result.text
    assert "Traceback" not in result.text
    reached = torch.load(last, weights_only=True)["global_step"]
    assert 2 <= reached < 8
    if signum != signal.SIGKILL:
        assert f"continue with resume={TRIAL}" in result.err
    result = call(workdir, *TRAIN, f"resume={TRIAL}")
    assert result.code == 0, result.text
    assert torch.equal(values_of(last), values_of(trained[0] / TRIAL / "ckpts/last.ckpt"))


def test_as_a_process_of_its_own(workdir):
    command = [sys.executable, str(LAUNCHER), *TRAIN, "trainer.max_steps=1"]
    done = subprocess.run(command, cwd=workdir, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"results in {TRIAL}: save/it1-test.mp4"


def test_typecheck_finds_a_wrong_shape(workdir):
    typed = workdir / "custom/typed"
    typed.mkdir()
    (typed / "__init__.py").write_text("from . import parts\n")
    (typed / "parts.py").write_text(
        "import torch\n"
        "from jaxtyping import Float\n"
        "from torch import Tensor\n\n\n"
        "def length(points: Float[Tensor, 'N 3'], scale: Float[Tensor, 'N']) -> Float[Tensor, 'N']:\n"
        "    return points.norm(dim=-1) * scale\n\n\n"
        "length(torch.zeros(5, 3), torch.ones(5))\n"
        "length(torch.zeros(5, 3), torch.ones(1))\n"
    )
    short = (*TRAIN, "trainer.max_steps=1", "trainer.limit_test_batches=0")
    assert "FAILED" not in call(workdir, *short).text
    assert "typed FAILED to import: TypeCheckError" in call(workdir, *short, "--typecheck").err


def test_typecheck_leaves_what_numba_compiles_alone(repository):
    modules = checked_modules(repository / "custom" / "threestudio_4d")
    assert "threestudio_4d.ops.planes" in modules and "threestudio_4d.renderer.volume.march" in modules
    assert not [name for name in modules if name.endswith("_numba") or name == "threestudio_4d"]


def test_last_checkpoint_is_renewed_by_the_clock(workdir):
    often = ("checkpoint.every_n_minutes=1e-6", "checkpoint.every_n_train_steps=999", "trainer.val_check_interval=999")
    result = call(workdir, *TRAIN, *often, "system.fail_at=3")
    assert result.code == 1, result.text
    folder = workdir / TRIAL / "ckpts"
    assert [p.name for p in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3


def test_second_start_without_resume_warns(trained_copy):
    result = call(trained_copy, *TRAIN, "trainer.max_steps=1", "trainer.limit_test_batches=0")
    assert result.code == 0, result.text
    assert f"{TRIAL} has checkpoints of an earlier run" in result.err and "resume=last" in result.err
