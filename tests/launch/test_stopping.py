"""Runs that have ended, were stopped early, or lost a checkpoint: what is said, and what goes on from where."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest_launch import LAUNCHER, Launched, call, environment

TRIAL = Path("outputs/tiny/run")
LAST = TRIAL / "ckpts/last.ckpt"
TRAIN = ("--config", "tiny.yaml", "--train")


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


@pytest.mark.parametrize("max_steps", [8, 5])
def test_a_run_with_all_its_steps_says_so_and_renders(trained_copy, max_steps):
    rendered = trained_copy / TRIAL / "save/it8-test/0.png"
    rendered.unlink()
    before = (trained_copy / LAST).read_bytes()
    result = call(trained_copy, *TRAIN, "resume=last", f"trainer.max_steps={max_steps}")
    assert result.code == 0, result.text
    assert f"is at step 8 and trainer.max_steps is {max_steps}: no training, rendering the test views" in result.err
    assert "trainer.max_steps=16 would train on" in result.err
    assert rendered.is_file() and (trained_copy / LAST).read_bytes() == before


def test_a_run_with_all_its_steps_and_no_test_pass_has_nothing_to_do(trained_copy):
    result = call(trained_copy, *TRAIN, "resume=last", "trainer.limit_test_batches=0")
    assert result.code == 0, result.text
    assert "no training, nothing to do" in result.err


def test_a_run_that_was_cut_short_on_the_command_line_goes_on_to_the_steps_of_the_file(workdir):
    first = call(workdir, *TRAIN, "trainer.max_steps=3")
    assert first.code == 0, first.text
    second = call(workdir, *TRAIN, "resume=last")
    assert second.code == 0, second.text
    assert "the run has reached its 3 steps: going on to trainer.max_steps=8 of the file" in second.err
    assert step_of(workdir / LAST) == 8


def test_a_test_pass_that_training_left_out_can_be_made_later(workdir):
    first = call(workdir, *TRAIN, "trainer.max_steps=2", "trainer.limit_test_batches=0")
    assert first.code == 0 and not (workdir / TRIAL / "save/it2-test").exists(), first.text
    second = call(workdir, "--config", "tiny.yaml", "--test", f"resume={TRIAL}")
    assert second.code == 0 and (workdir / TRIAL / "save/it2-test/2.png").is_file(), second.text


@pytest.mark.parametrize("value", ["last", str(TRIAL)])
def test_whole_checkpoints_stand_in_for_a_missing_last_one(trained_copy, value):
    (trained_copy / LAST).unlink()
    (trained_copy / TRIAL / "ckpts/epoch=0-step=9.ckpt").write_bytes(b"cut off")
    result = call(trained_copy, *TRAIN, f"resume={value}", "trainer.max_steps=9")
    assert result.code == 0, result.text
    assert f"{TRIAL}/ckpts/epoch=0-step=8.ckpt (step 8)" in result.err
    assert step_of(trained_copy / LAST) == 9


def test_a_damaged_last_checkpoint_is_refused_and_the_newest_whole_one_offered(trained_copy):
    last = trained_copy / LAST
    last.unlink()  # it is a link to a whole one
    last.write_bytes(b"cut off")
    result = call(trained_copy, *TRAIN, "resume=last", "trainer.max_steps=9")
    result.assert_user_error("last.ckpt", f"resume={TRIAL}/ckpts/epoch=0-step=8.ckpt")


def test_ctrl_c_before_the_first_checkpoint(workdir):
    """While Lightning validates before the first step, nothing is saved."""
    before = {str(path) for path in workdir.rglob("*")}
    run = Launched(workdir, *TRAIN, "system.validation_seconds=3", "trainer.num_sanity_val_steps=1")
    while run.poll() is None and not (workdir / TRIAL / "cmd.txt").is_file():
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(run.pid, signal.SIGINT)
    result = run.wait()
    assert result.code == 130, result.text
    assert "Traceback" not in result.text and "continue with" not in result.text
    assert "nothing was saved yet; the same command starts anew" in result.err
    assert {str(path) for path in workdir.rglob("*")} == before


SLOW_IMPORT = """
import pathlib, time
pathlib.Path("importing").touch()
for second in range(60):
    try:
        time.sleep(1)
    except BaseException:  # as some libraries do
        pass
"""


@pytest.mark.parametrize("package", ["threestudio", "custom/slow"])
def test_ctrl_c_while_something_is_imported(workdir, package):
    (workdir / package).mkdir()
    (workdir / package / "__init__.py").write_text(SLOW_IMPORT)
    command = [sys.executable, str(LAUNCHER), *TRAIN]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=workdir, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        while process.poll() is None and not (workdir / "importing").is_file():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert not (workdir / "outputs").exists()


@pytest.mark.parametrize("value", ["abc", "", "0,", "0,0", "1.5", "-2", "0;1"])
def test_gpus_that_cannot_be(launch, workdir, value):
    launch(*TRAIN, f"--gpu={value}").assert_user_error("argument --gpu")
    assert not (workdir / "outputs").exists()
