"""The checkpoint writer by itself: whole files only, tensors and plain values only, clear messages."""

import collections
import contextlib
import enum
import functools
import os
import pickle
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from threestudio.utils import atomic, checkpoint_io
from threestudio.utils.checkpoint_io import load_whole, to_plain, write_atomically
from threestudio.utils.errors import CheckpointError


def content(step: int, size: int = 1000) -> dict:
    return {"state_dict": {"w": torch.full((size,), float(step))}, "global_step": step, "epoch": 0, "loops": {}}


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_round_trip_and_no_leftovers(tmp_path):
    path = tmp_path / "ckpts" / "last.ckpt"
    for step in (1, 2):
        write_atomically(content(step), path)
        assert load_whole(path)["global_step"] == step
    assert names(path.parent) == ["last.ckpt"]


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".last.ckpt.{atomic._HOST}-{dead.pid}.partial").write_bytes(b"half")
    write_atomically(content(1), tmp_path / "last.ckpt")
    assert names(tmp_path) == ["last.ckpt"]


def test_foreign_values_become_plain():
    class Level(int, enum.Enum):
        HIGH = 3

    node = OmegaConf.create({"betas": [0.9, 0.99]})
    plain = to_plain(
        {
            "args": node,
            "number": np.float32(0.5),
            "array": np.arange(3),
            "path": Path("a/b"),
            "level": Level.HIGH,
            "ordered": collections.OrderedDict(a=(1, None, True)),
        }
    )
    assert plain["args"] == {"betas": [0.9, 0.99]} and type(plain["args"]["betas"]) is list
    assert plain["number"] == 0.5 and type(plain["number"]) is float
    assert torch.equal(plain["array"], torch.arange(3))
    assert plain["path"] == "a/b"
    assert plain["level"] == 3 and type(plain["level"]) is int
    assert plain["ordered"] == {"a": (1, None, True)}


def test_object_that_cannot_be_stored_is_named(tmp_path):
    write_atomically(content(1), tmp_path / "last.ckpt")
    bad = content(2) | {"callbacks": {"mine": [0, object()]}}
    with pytest.raises(CheckpointError, match=r"'callbacks\.mine\[1\]' is a builtins\.object"):
        write_atomically(bad, tmp_path / "last.ckpt")
    assert load_whole(tmp_path / "last.ckpt")["global_step"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [10, 10_000_000])
def test_full_disk(tmp_path, monkeypatch, size):
    """A device that is full refuses at the first write of a large file, and only at the flush of a small one."""
    path = tmp_path / "ckpts" / "last.ckpt"
    write_atomically(content(1), path)
    open_full = functools.partial(open, "/dev/full")
    monkeypatch.setattr(checkpoint_io, "open", lambda _, mode: open_full(mode), raising=False)
    with pytest.raises(CheckpointError, match="No space left on the disk: the checkpoint .*last.ckpt") as caught:
        write_atomically(content(2, size), path)
    assert "Earlier checkpoints are intact" in str(caught.value)
    assert load_whole(path)["global_step"] == 1
    assert names(path.parent) == ["last.ckpt"]


def test_file_that_does_not_read_back_never_replaces_the_last_good_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_atomically(content(1), path)
    real_save = torch.save
    monkeypatch.setattr(torch, "save", lambda obj, file: real_save(content(7, size=3), file))
    with pytest.raises(CheckpointError, match="the old one is kept"):
        write_atomically(content(2), path)
    monkeypatch.setattr(torch, "save", lambda obj, file: file.write(b"nonsense"))
    with pytest.raises(CheckpointError, match="does not read back"):
        write_atomically(content(2), path)
    assert load_whole(path)["global_step"] == 1
    assert names(tmp_path) == ["last.ckpt"]


@pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="needs a fork without CUDA")
@pytest.mark.parametrize("delay", [0.002, 0.005, 0.011, 0.023, 0.05])
def test_killed_while_saving_leaves_a_whole_file(tmp_path, delay):
    path = tmp_path / "last.ckpt"
    write_atomically(content(0, 300_000), path)
    pid = os.fork()
    if pid == 0:
        step = 0
        while True:
            step += 1
            write_atomically(content(step, 300_000), path)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found = load_whole(path)
    assert torch.equal(found["state_dict"]["w"], torch.full((300_000,), float(found["global_step"])))


def test_reader_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    plain, zipped = tmp_path / "plain.ckpt", tmp_path / "zip.ckpt"
    held = {"state_dict": {"w": torch.zeros(1)}, "loops": Payload()}
    plain.write_bytes(pickle.dumps(held, protocol=2))
    torch.save(held, zipped)
    with pytest.raises(CheckpointError, match="plain.ckpt"):
        load_whole(plain)
    with contextlib.suppress(CheckpointError):  # it may give the tensors and leave the object inert
        load_whole(zipped)
    assert not (tmp_path / "executed").exists()
