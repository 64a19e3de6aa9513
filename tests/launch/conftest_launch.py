"""A working folder with the tiny extension, and a way to call the launcher in it as a user does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAUNCHER = HERE.parents[1] / "launch.py"


@dataclass
class Result:
    """What a call of the launcher left behind."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def assert_user_error(self, *fragments: str) -> None:
        """One clear message, exit status 2, no traceback."""
        assert self.code == 2, self.text
        assert "Traceback" not in self.text
        assert "error: " in self.err
        for fragment in fragments:
            assert fragment in self.err, f"{fragment!r} is not in:\n{self.err}"


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def make_workdir(folder: Path) -> Path:
    """``folder`` with ``custom/tiny_extension`` and ``tiny.yaml``."""
    shutil.copytree(HERE / "extension", folder / "custom", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "tiny.yaml", folder / "tiny.yaml")
    return folder


def call(workdir: Path, *arguments: str, timeout: float = 120) -> Result:
    command = [sys.executable, str(LAUNCHER), *arguments]
    done = subprocess.run(command, cwd=workdir, env=environment(), capture_output=True, text=True, timeout=timeout)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return make_workdir(tmp_path)


@pytest.fixture
def launch(workdir: Path) -> Callable[..., Result]:
    """``launch("--config", "tiny.yaml", "--train", ...)`` in a folder of the test's own."""
    return lambda *arguments, **options: call(workdir, *arguments, **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Working folder and output of one finished training run of eight steps; read only."""
    folder = make_workdir(tmp_path_factory.mktemp("trained"))
    return folder, call(folder, "--config", "tiny.yaml", "--train")


@pytest.fixture
def trained_copy(trained: tuple[Path, Result], tmp_path: Path) -> Path:
    """A copy of the finished run that the test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    return folder
