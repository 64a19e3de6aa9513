"""The runner with a launcher that trains nothing: order, failures, kills, resuming, devices, Ray."""

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from bench_maker import Runner, write_data, write_launcher

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.benchmark import runs
from threestudio_4d.evaluation.benchmark.runner import Options, choose, read_states, run_all
from threestudio_4d.evaluation.benchmark.schedulers import (
    failed,
    gpu_share,
    import_ray,
    run_here,
    run_on_ray,
    visible_gpus,
)
from threestudio_4d.evaluation.benchmark.spec import Changes, make_jobs, make_spec

COMMAND = (
    "--config",
    "a.yaml",
    "--data",
    "data",
    "--out",
    "out",
    "--launcher",
    "fake_launch.py",
    "--metrics",
    "psnr",
    "iou",
)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """``bench(*overrides)`` -> jobs of two objects, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    data, launcher = write_data(tmp_path / "data"), write_launcher(tmp_path)
    (tmp_path / "a.yaml").write_text("name: a\n")

    def make(*overrides, threads=None):
        spec = make_spec(["a.yaml"], Changes(str(data), overrides=list(overrides)))
        return make_jobs(spec, tmp_path / "out", launcher, threads)

    return make


def statuses(jobs):
    return [runs.read_state(job.folder).status for job in jobs]


def wait_for(runner, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert not runner.has_ended(), runner.printed()
        assert time.monotonic() < end, runner.printed()
        time.sleep(0.02)


def log(job):
    path = Path(job.folder, "run.log")
    return path.read_text() if path.exists() else ""


def test_a_failing_run_is_reported_and_the_others_go_on(bench, tmp_path, capfd):
    jobs = bench("fake.fail=cat")
    states = run_all(jobs, tmp_path / "out", Options())
    assert [states[job.id].status for job in jobs] == statuses(jobs) == ["failed", "done"]
    state = runs.read_state(jobs[0].folder)
    assert state.exit_code == 2 and state.starts == 1 and state.device == "CPU"
    assert state.reason == "error: system.loss.lambda_<b>rgb</b> is 'x'; it takes float."
    assert state.log_tail[0] == "custom modules: none" and state.command[-1] == "fake.fail=cat"
    printed = capfd.readouterr().err
    assert "failed  a/cat-s0  error: system.loss" in printed and "2/2 runs, 1 failed" in printed


def test_failed_runs_start_again_only_when_asked(bench, tmp_path):
    jobs = bench("fake.fail=cat")
    for options, starts in ((Options(), 1), (Options(), 1), (Options(retry_failed=True), 2)):
        run_all(jobs, tmp_path / "out", options)
        assert [runs.read_state(job.folder).starts for job in jobs] == [starts, 1]


def test_only_some_runs(bench, tmp_path):
    jobs = bench()
    run_all(jobs, tmp_path / "out", Options(only=["dog"]))
    assert [Path(job.folder).exists() for job in jobs] == [False, True]
    assert [job.id for job in choose(jobs, ["a/c*"])] == ["a/cat-s0"] and len(choose(jobs, ["a"])) == 2
    with pytest.raises(UserError, match="--only cow matches no run; configs and objects are: a, cat, dog"):
        choose(jobs, ["cow"])


def test_other_settings_are_not_mixed_with_earlier_runs(bench, tmp_path):
    run_all(bench(), tmp_path / "out", Options())
    with pytest.raises(UserError, match=r"2 of 2 runs were made with other settings") as caught:
        read_states(bench("x=1"))
    assert "overrides had nothing more, have x=1" in str(caught.value) and "another --out" in str(caught.value)
    (tmp_path / "a.yaml").write_text("name: b\n")
    with pytest.raises(UserError, match=r"the content of a.yaml has changed"):
        read_states(bench())


def test_a_run_that_only_failed_takes_new_settings(bench, tmp_path):
    run_all(bench("fake.fail=cat"), tmp_path / "out", Options(only=["cat"]))
    states = run_all(bench(), tmp_path / "out", Options(retry_failed=True))
    assert {state.status for state in states.values()} == {"done"}


@pytest.mark.parametrize(("out", "why"), [("a.yaml", "File exists"), ("a.yaml/out", "Not a directory")])
def test_an_output_folder_that_cannot_be(bench, tmp_path, out, why):
    bench()
    code, printed = Runner(tmp_path, *COMMAND, "--out", out).wait()
    assert code == 2 and printed == f"error: {tmp_path / out}: {why}\n"


def test_states_that_cannot_be_read_are_named(bench):
    job = bench()[0]
    Path(job.folder).mkdir(parents=True)
    Path(job.folder, "run.json").write_text('{"id": ')
    with pytest.raises(UserError, match=r"run\.json is not the state of a run .* remove it"):
        read_states([job])


def test_workers_share_the_devices(bench, monkeypatch):
    jobs, seen = bench(threads=3), {}

    def execute(job, device, should_stop, should_kill):
        time.sleep(0.1)
        seen[job.id] = device
        return runs.RunState(job.id, "done")

    monkeypatch.setattr(runs, "execute", execute)
    run_here(jobs, ["4", "GPU-ab"], 2, lambda job, state: None, lambda: None)
    assert sorted(seen.values()) == ["4", "GPU-ab"]
    variables = runs._environment(jobs[0], "4")
    assert variables["CUDA_VISIBLE_DEVICES"] == "4" and variables["OMP_NUM_THREADS"] == "3"


def test_gpus_are_those_that_are_visible(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for given, expected in (
        (None, ["0", "1"]),
        ("", ["0", "1"]),
        ("3,GPU-ab", ["3", "GPU-ab"]),
        ("2, 3", ["2", "3"]),
        ("2,3,99", ["2", "3"]),  # CUDA found two of them
    ):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if given is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert visible_gpus() == []
    assert runs.name_device("-1") == "CPU" and runs.name_device("3").startswith("GPU 3")


def test_hidden_gpus_stay_hidden(bench, monkeypatch):
    job = bench()[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert runs._environment(job, None)["CUDA_VISIBLE_DEVICES"] == "-1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES" not in runs._environment(job, None)


@pytest.mark.parametrize(
    ("gpus", "workers", "share"),
    [
        (0, None, 0),
        (0, 4, 0),
        (4, None, 1),
        (4, 2, 1),
        (2, 2, 1),
        (2, 3, 0.5),
        (2, 4, 0.5),
        (1, 3, 0.333),
        (2, 6, 0.333),
    ],
)
def test_tasks_share_gpus_such_that_all_workers_run(gpus, workers, share):
    assert gpu_share(gpus, workers) == share


def test_a_run_that_was_lost_can_be_gone_on_with(bench):
    """What its folder knew before (settings, time, checkpoint) outlives a failure that the run did not record."""
    job = bench()[0]
    state = runs.RunState(job.id, "running", dict(job.settings), starts=1, started=time.time() - 5, host="a")
    Path(job.folder, "ckpts").mkdir(parents=True)
    Path(job.folder, "ckpts", "last.ckpt").write_text("3")
    Path(job.folder, "run.log").write_text("train 3/10\n")
    runs.write_state(job.folder, state)
    lost = failed(job, RuntimeError("the machine died"))
    assert (lost.status, lost.reason) == ("failed", "RuntimeError: the machine died")
    assert lost.starts == 1 and 4 < lost.seconds < 60 and lost.settings == job.settings
    assert read_states([job])[job.id] == lost


def test_what_breaks_in_the_runner_itself_fails_one_run(bench, monkeypatch):
    jobs, ended, whole = bench(), {}, runs.execute

    def execute(job, *rest):
        if job.object == "cat":
            raise OSError("no space left")
        return whole(job, *rest)

    monkeypatch.setattr(runs, "execute", execute)
    run_here(jobs, [], 1, lambda job, state: ended.update({job.object: state}), lambda: None)
    assert ended["cat"].status == "failed" and ended["cat"].reason == "OSError: no space left"
    assert ended["dog"].status == "done"


@pytest.mark.parametrize(
    ("code", "tail", "reason"),
    [
        (2, ["train 1/2", "error: a", "  b"], "error: a\n  b"),
        (1, ["error: early", "internal error: KeyError: 'x' (the traceback is in error.log)"], None),
        (1, ["Traceback (most recent call last):", "torch.cuda.OutOfMemoryError: CUDA out of memory"], None),
        (-9, ["train 1/2"], "killed by SIGKILL (out of memory?)"),
        (3, [], "exit status 3 without a message"),
    ],
)
def test_reasons(code, tail, reason):
    assert runs.explain(code, tail) == (reason or tail[-1])


def test_ctrl_c_saves_and_the_next_start_goes_on(bench, tmp_path):
    jobs = bench("fake.seconds=3")
    arguments = [
        "--config",
        "a.yaml",
        "--data",
        "data",
        "--out",
        "out",
        "--launcher",
        "fake_launch.py",
        "fake.seconds=3",
    ]
    runner = Runner(tmp_path, *arguments)
    wait_for(runner, lambda: "train 3/10" in log(jobs[0]))
    runner.send(signal.SIGINT)
    code, printed = runner.wait()
    assert code == 130 and "stopped; the same command goes on" in printed, printed
    state = runs.read_state(jobs[0].folder)
    assert (state.status, state.exit_code, state.pid, state.starts) == ("queued", 143, None, 1)
    assert state.seconds > 0.5 and log(jobs[0]).rstrip().endswith("stopped")
    run_all(jobs, tmp_path / "out", Options())
    assert statuses(jobs) == ["done", "done"]
    again = log(jobs[0])
    assert again.count("train 3/10") == 1 and again.count("train 10/10") == 1  # it went on, not from the start
    assert runs.read_state(jobs[0].folder).seconds > 2


def test_a_killed_runner_goes_on_and_stops_the_run_it_left_behind(bench, tmp_path):
    jobs = bench("fake.seconds=5")
    runner = Runner(tmp_path, *COMMAND, "fake.seconds=5")
    wait_for(runner, lambda: "train 1/10" in log(jobs[0]))
    runner.send(signal.SIGKILL)
    assert runner.wait()[0] == -signal.SIGKILL
    left = runs.read_state(jobs[0].folder)
    assert left.status == "running"
    os.kill(left.pid, 0)  # it is still training
    step = runs.read_progress(jobs[0].folder)
    assert step[0] == "train" and step[2] == 10
    state = runs.execute(jobs[0], should_stop=lambda: log(jobs[0]).count("starts at") == 2)
    assert state.status == "queued" and state.starts == 2
    text = log(jobs[0])
    assert "stopped\ncustom modules: none\nstarts at" in text and text.count("train 1/10") == 1


def test_a_folder_in_use_is_left_alone(bench):
    job = bench()[0]
    Path(job.folder).mkdir(parents=True)
    with runs._locked(Path(job.folder), None), pytest.raises(runs.RunBusyError, match="in use"):
        runs.execute(job)


def test_two_runners_do_not_share_a_folder(bench, tmp_path):
    bench()
    first = Runner(tmp_path, *COMMAND, "fake.seconds=30")
    wait_for(first, lambda: (tmp_path / "out" / "runs" / "a" / "cat-s0" / "run.json").exists())
    with pytest.raises(UserError, match="another benchmark runner works in"):
        run_all(bench("fake.seconds=30"), tmp_path / "out", Options())
    first.send(signal.SIGTERM)
    assert first.wait()[0] == 130


def test_states_are_whole_at_every_moment(tmp_path):
    for seconds in (1.0, 2.0):
        runs.write_state(tmp_path, runs.RunState("a", seconds=seconds))
        assert runs.read_state(tmp_path).seconds == seconds
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(TypeError):
        runs.write_json(tmp_path / "run.json", object())
    assert json.loads((tmp_path / "run.json").read_text())["seconds"] == 2.0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_named_at_once(monkeypatch, address):
    monkeypatch.setitem(__import__("sys").modules, "ray", object())
    with pytest.raises(UserError, match=f"cannot reach a Ray cluster at {address}"):
        run_on_ray([], address, None, lambda job, state: None, lambda: None)


def test_ray_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match="--ray needs Ray: pip install"):
        import_ray()


needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (an optional extra)"
)


@needs_ray
@pytest.mark.slow
def test_ray_spreads_runs(bench, tmp_path):
    jobs = bench("fake.fail=cat")
    runner = Runner(tmp_path, *COMMAND, "--ray", "--workers", "2", "fake.fail=cat")
    code, printed = runner.wait(200)
    assert code == 1, printed
    assert statuses(jobs) == ["failed", "done"]


@needs_ray
@pytest.mark.slow
def test_a_lost_worker_and_a_run_too_large(bench, tmp_path):
    """A worker is killed; its run goes on from its checkpoint in another one."""
    jobs = bench("fake.seconds=8")
    runner = Runner(tmp_path, *COMMAND, "--ray", "--threads", "9999")
    code, printed = runner.wait(200)
    assert code == 2 and "error: a run takes 9999 CPUs, and no machine of Ray's has more than" in printed
    runner = Runner(tmp_path, *COMMAND, "--ray", "--workers", "1", "fake.seconds=8")
    wait_for(runner, lambda: "train 3/10" in log(jobs[0]), 100)
    run = runs.read_state(jobs[0].folder).pid
    worker = int(Path(f"/proc/{run}/stat").read_text().split(")")[1].split()[1])
    os.kill(worker, signal.SIGKILL)
    code, printed = runner.wait(200)
    assert code == 0 and "lost    a/cat-s0  WorkerCrashedError; it goes on elsewhere" in printed, printed
    assert runs.read_state(jobs[0].folder).starts == 2 and log(jobs[0]).count("starts at 0") == 1
