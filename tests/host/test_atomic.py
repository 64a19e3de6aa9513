"""Everything that results are written by: whole under its name, or not there, with a message that says why."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from safetensors.torch import save_file
from test_saving import square

import threestudio.utils.atomic
import threestudio_4d.atomic
from threestudio.utils.checkpoint_io import write_atomically
from threestudio.utils.config import dump_config
from threestudio.utils.errors import CheckpointError
from threestudio.utils.saving import SaverMixin
from threestudio.utils.video import write_video
from threestudio_4d import video_files
from threestudio_4d.evaluation.benchmark.pictures import write_jpeg
from threestudio_4d.evaluation.benchmark.runs import write_json
from threestudio_4d.results.export.mesh_files import ColoredMesh, write_glb, write_obj
from threestudio_4d.results.pictures import write_png

LIMIT = 4096
BOTH = pytest.mark.parametrize("atomic", [threestudio.utils.atomic, threestudio_4d.atomic], ids=["host", "extension"])


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saver(folder: Path) -> SaverMixin:
    made = SaverMixin()
    made.set_save_dir(str(folder))
    return made


def ball() -> ColoredMesh:
    made = trimesh.creation.icosphere(3)
    return ColoredMesh(np.float32(made.vertices), np.int64(made.faces), np.float32(np.abs(made.vertices)))


def save_folder(path: Path) -> None:
    with threestudio_4d.atomic.atomic_folder(path) as folder:
        save_file({"w": torch.randn(5000)}, folder / "weights.safetensors")


def source_of(folder: Path) -> str:
    path = folder.parent / "source.bin"
    if not path.exists():
        path.write_bytes(noise(9000).tobytes())
    return str(path)


WRITERS = {
    "a.png": lambda p: saver(p.parent).save_rgb_image(p.name, noise(64, 64, 3)),
    "b.png": lambda p: write_png(str(p), noise(64, 64, 4)),
    "a.mp4": lambda p: write_video(str(p), noise(9, 64, 64, 3)),
    "a.gif": lambda p: write_video(str(p), noise(9, 64, 64, 3)),
    "b.mp4": lambda p: video_files.write_video(p, noise(9, 64, 64, 3), 8),
    "b.gif": lambda p: video_files.write_video(p, noise(9, 64, 64, 3), 8),
    "a.json": lambda p: saver(p.parent).save_json(p.name, list(range(3000))),
    "b.json": lambda p: write_json(p, list(range(3000))),
    "a.npz": lambda p: saver(p.parent).save_data(p.name, {"x": noise(9000)}),
    "a.npy": lambda p: saver(p.parent).save_data(p.name, noise(9000)),
    "a.pt": lambda p: saver(p.parent).save_state_dict(p.name, {"w": torch.randn(5000)}),
    "a.bin": lambda p: saver(p.parent).save_file(p.name, source_of(p.parent)),
    "a.jpg": lambda p: write_jpeg(p, noise(160, 160, 3)),
    "a.yaml": lambda p: dump_config(str(p), {"x": list(range(3000))}),
    "texture_kd.png": lambda p: saver(p.parent).save_obj(
        "m", square(), save_mat=True, save_uv=True, map_Kd=torch.rand(64, 64, 3), map_format="png"
    ),
    "a.glb": lambda p: write_glb(p, ball()),
    "a.obj": lambda p: write_obj(p, ball(), "y"),
    "a.ply": lambda p: saver(p.parent).save_mesh(p.name, ball().vertices, ball().faces),
    "a.ckpt": lambda p: write_atomically({"state_dict": {"w": torch.randn(5000)}}, p),
    "folder": save_folder,
}


@pytest.fixture
def small_files():
    """No file may become larger than ``LIMIT``: what a disk that fills up does to one, without the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("earlier", [False, True])
def test_no_room(tmp_path, small_files, name, earlier):
    folder = tmp_path / "results"
    folder.mkdir()
    source_of(folder)
    path = folder / name
    if earlier:
        path.mkdir() if name == "folder" else path.write_bytes(b"earlier")
    small_files()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the host and the extension have a class each
        WRITERS[name](path)
    assert {"WriteError", "CheckpointError"} & {type(caught.value).__name__}, repr(caught.value)
    message = str(caught.value)
    assert name in message and "larger than files may be" in message and "partial" not in message
    assert ("Earlier checkpoints are intact" if name == "a.ckpt" else "Nothing incomplete was left") in message
    assert [p.name for p in folder.iterdir()] == ([name] if earlier else [])
    if earlier and name != "folder":
        assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize("name", WRITERS)
def test_with_room(tmp_path, name):
    folder = tmp_path / "results"
    folder.mkdir()
    source_of(folder)
    WRITERS[name](folder / name)
    made = {p.name for p in folder.iterdir()}
    assert made == {name} | ({"m.mtl", "m.obj"} if name.startswith("texture") else set())


def test_both_copies_are_the_same():
    host, extension = (Path(m.__file__).read_bytes() for m in (threestudio.utils.atomic, threestudio_4d.atomic))
    assert host == extension


@BOTH
def test_an_error_of_the_block_passes_and_leaves_nothing(tmp_path, atomic):
    for context in (atomic.atomic_file, atomic.atomic_folder):
        with pytest.raises(FileNotFoundError, match="absent"), context(tmp_path / "a"):
            (tmp_path / "absent").read_bytes()
        with pytest.raises(KeyboardInterrupt), context(tmp_path / "a") as partial:
            (partial if context is atomic.atomic_file else partial / "x").write_bytes(b"half")
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@BOTH
def test_places_that_cannot_be_written(tmp_path, atomic):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(atomic.WriteError, match="file/a': .*file' is a file"):
        atomic.write_bytes(tmp_path / "file/a", b"")
    with pytest.raises(atomic.WriteError, match="it is a folder"):
        atomic.write_bytes(tmp_path, b"")
    with pytest.raises(atomic.WriteError, match="it is a file"), atomic.atomic_folder(tmp_path / "file"):
        pass
    with pytest.raises(atomic.WriteError, match="not a regular file"):
        atomic.write_bytes("/dev/null", b"")
    assert not Path("/dev/null").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@BOTH
def test_folders_are_replaced_as_a_whole(tmp_path, atomic):
    for k in range(2):
        with atomic.atomic_folder(tmp_path / "a") as folder:
            atomic.write_text(folder / f"{k}.txt", "x", sync=True)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["1.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    (tmp_path / "link").symlink_to("a")
    with atomic.atomic_folder(tmp_path / "link") as folder:
        (folder / "2.txt").touch()
    assert (tmp_path / "link").is_symlink() and [p.name for p in (tmp_path / "a").iterdir()] == ["2.txt"]


@BOTH
def test_a_killed_process_leaves_nothing_for_long(tmp_path, atomic):
    """Also one that was killed between moving the old folder away and the new one in."""
    code = (
        "import os, signal, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        f"from {atomic.__name__} import atomic_file, atomic_folder\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "with atomic_file('a.txt') as file, atomic_folder('b') as folder:\n"
        "    file.write_text('half')\n"
        "    (folder / 'c').touch()\n"
        "    os.mkdir('d'); os.replace('d', folder.name.replace('.b.', '.d.').replace('partial', 'old'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / ".x.other_host-1.partial").touch()  # may be alive there
    (tmp_path / f".x.{atomic._HOST}-{os.getppid()}.partial").touch()  # is alive here
    atomic.write_text(tmp_path / "e.txt", "whole")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"d", "e.txt", ".x.other_host-1.partial", f".x.{atomic._HOST}-{os.getppid()}.partial"}


def test_checkpoint_says_where_to_go_on(tmp_path, small_files):
    small_files()
    with pytest.raises(CheckpointError, match="Earlier checkpoints are intact.* then continue with resume=.*run"):
        write_atomically({"state_dict": {"w": torch.randn(5000)}}, tmp_path / "run/ckpts/last.ckpt")
