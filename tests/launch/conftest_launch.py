"""A working folder with the tiny extension, and a way to call the launcher in it as a user does.

Importing torch and Lightning takes seconds, so the launcher runs in a fork of the test process, which has them already.
Where there is a GPU it is a process of its own: CUDA does not survive a fork.
"""

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytorch_lightning.loggers  # noqa: F401 - loaded once, here, for all forks
import torch
import torch.utils.tensorboard  # noqa: F401

import threestudio.systems.base  # noqa: F401
import threestudio.utils.checkpoint_io  # noqa: F401

HERE = Path(__file__).parent
LAUNCHER = HERE.parents[1] / "launch.py"
FORK = hasattr(os, "fork") and not torch.cuda.is_available()


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


class Launched:
    """A launcher that runs in ``workdir``; its output goes to files outside of it."""

    def __init__(self, workdir: Path, *arguments: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name, name) for name in ("out", "err")]
        self._code: int | None = None
        if FORK:
            self.pid = os.fork()
            if self.pid == 0:
                _run_in_child(workdir, arguments, self._files)
        else:
            with open(self._files[0], "w") as out, open(self._files[1], "w") as err:
                command = [sys.executable, str(LAUNCHER), *arguments]
                self.process = subprocess.Popen(command, cwd=workdir, env=environment(), stdout=out, stderr=err)
            self.pid = self.process.pid

    def poll(self) -> int | None:
        """Exit status as ``subprocess`` has it (negative: killed by that signal), ``None`` while it runs."""
        if self._code is None:
            if not FORK:
                self._code = self.process.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = 120) -> Result:
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        out, err = (path.read_text() for path in self._files)
        return Result(self._code, out, err)


def _run_in_child(workdir: Path, arguments: tuple[str, ...], files: list[Path]) -> None:
    """Be the launcher, in a process that already has the slow imports behind it."""
    code = 99
    try:
        for descriptor, path in zip((1, 2), files, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment())
        os.chdir(workdir)
        sys.argv = [str(LAUNCHER), *arguments]
        logging.getLogger("pytorch_lightning").handlers.clear()
        spec = importlib.util.spec_from_file_location("launch", LAUNCHER)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        code = module.main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # as the interpreter would: print and end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def call(workdir: Path, *arguments: str) -> Result:
    return Launched(workdir, *arguments).wait()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return make_workdir(tmp_path)


@pytest.fixture
def launch(workdir: Path) -> Callable[..., Result]:
    """``launch("--config", "tiny.yaml", "--train", ...)`` in a folder of the test's own."""
    return lambda *arguments: call(workdir, *arguments)


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
