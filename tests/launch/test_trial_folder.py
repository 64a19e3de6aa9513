"""The folder of a run: its name, when it is made, and that one process works in it at a time."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from conftest_launch import Launched, call

TRIAL = Path("outputs/tiny/run")
TRAIN = ("--config", "tiny.yaml", "--train")


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in str(path)}


@pytest.fixture
def running(workdir):
    """A run that is in the midst of training."""
    run = Launched(workdir, *TRAIN, "system.step_seconds=0.1", "trainer.max_steps=1000")
    while run.poll() is None and not (workdir / TRIAL / "csv_logs").is_dir():
        time.sleep(0.02)
    yield run
    if run.poll() is None:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()


@pytest.mark.parametrize("arguments", [("--train",), ("--train", "seed=9", "tag=run"), ("--test",), ("--export",)])
def test_two_processes_do_not_share_a_folder(workdir, running, arguments):
    other = call(workdir, "--config", "tiny.yaml", *arguments)
    assert running.poll() is None
    other.assert_user_error(f"{TRIAL} is in use by another process (process {running.pid} on {socket.gethostname()})")
    assert len((workdir / TRIAL / "cmd.txt").read_text().splitlines()) == 1


def test_of_two_that_start_together_one_runs(workdir):
    runs = [Launched(workdir, *TRAIN, "system.step_seconds=0.2") for _ in range(2)]
    results = sorted((run.wait() for run in runs), key=lambda result: result.code)
    assert [result.code for result in results] == [0, 2], [result.text for result in results]
    results[1].assert_user_error("is in use by another process")
    assert (workdir / TRIAL / "ckpts/last.ckpt").is_file() and (workdir / TRIAL / "cmd.txt").is_file()


def test_the_lock_of_a_killed_process_is_no_obstacle(workdir, running):
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert (workdir / TRIAL / "launch.lock").is_file()
    result = call(workdir, *TRAIN)
    assert result.code == 0, result.text


@pytest.mark.parametrize(
    ("tag", "folder"),
    [
        ("../..", ".._.."),
        ("a/b", "a_b"),
        ("/tmp/t4d", "_tmp_t4d"),
        ("a\\b\n", "a_b_"),
        ("1.10", "1.10"),
        ("007", "007"),
        ("x" * 300, "x" * 191 + "-"),
    ],
)
def test_tags_become_one_folder(launch, workdir, tag, folder):
    result = launch(*TRAIN, f"tag={tag}", "trainer.max_steps=1")
    assert result.code == 0, result.text
    (made,) = (workdir / "outputs/tiny").iterdir()
    assert made.name.startswith(folder) and len(os.fsencode(made.name)) <= 255
    assert {path.name for path in workdir.iterdir()} == {"custom", "outputs", "tiny.yaml"}
    again = launch("--config", "tiny.yaml", "--test", f"tag={tag}", "resume=last")
    assert again.code == 0, again.text


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        (("tag=..",), "tag becomes a folder"),
        (("tag=.",), "tag becomes a folder"),
        (("name=..",), "name becomes a folder"),
        (("name=",), "name"),
        (("exp_root_dir=null",), "exp_root_dir is 'null'"),
        (("exp_root_dir=tiny.yaml",), "exp_root_dir=FOLDER"),
        (("tag=new", "system.target=soon"), "system.target"),
        (("tag=new", "trainer.max_steps=soon"), "trainer.max_steps"),
        (("tag=new", "system_type=none-such"), "none-such"),
        (("tag=new", "data.n_test_views=[]"), "data.n_test_views"),
    ],
)
def test_nothing_is_made_before_the_config_is_valid(launch, workdir, overrides, fragment):
    before = entries(workdir)
    launch(*TRAIN, *overrides).assert_user_error(fragment)
    assert entries(workdir) == before


def test_a_clip_in_the_working_directory_or_with_a_slash_names_the_run(launch, workdir):
    text = (workdir / "tiny.yaml").read_text().replace("tag: run", "tag: ${basename:${description}}")
    (workdir / "tiny.yaml").write_text(text)
    for path, folder in (("clips/mine/", "mine"), (".", workdir.name), ("clips/mine/..", "clips")):
        result = launch(*TRAIN, f"description={path}", "trainer.max_steps=1", "trainer.limit_test_batches=0")
        assert result.code == 0, result.text
        assert f"results in outputs/tiny/{folder}" in result.out


def test_a_mistake_that_shows_late_leaves_no_folder(launch, workdir):
    """The system cannot be made ready for training: nothing came of the run."""
    before = entries(workdir)
    result = launch(*TRAIN, "system.fail_to_start=true")
    result.assert_user_error("weights of the prior are missing")
    assert entries(workdir) == before


def test_a_mistake_in_the_folder_of_an_earlier_run_leaves_that_alone(trained_copy):
    before = entries(trained_copy)
    call(trained_copy, *TRAIN, "system.fail_to_start=true").assert_user_error("weights of the prior are missing")
    assert before <= entries(trained_copy)
