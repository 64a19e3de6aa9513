"""A small benchmark with a launcher that trains nothing: what it does is written in its overrides.

``fake.fail=object``    that object's run prints an error and exits with 2
``fake.seconds=S``      each run takes about so long, in ten steps, with a checkpoint after each
``fake.wrong=true``     the result lacks a frame
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
from PIL import Image

from threestudio_4d.evaluation.benchmark.__main__ import main

VIEWS = ("ref", "az-75", "az15", "az105", "az195")
FRAMES = 4

LAUNCHER = """\
import shutil, signal, sys, time
from pathlib import Path

given = dict(text.split("=", 1) for text in sys.argv[1:] if "=" in text)
trial = Path(given["exp_root_dir"], given["name"], given["tag"])
clip = Path(given["data.image_seq_path"].strip('"'))
state = {"stop": False}
signal.signal(signal.SIGTERM, lambda *_: state.update(stop=True))
(trial / "ckpts").mkdir(parents=True, exist_ok=True)
print("custom modules: none", flush=True)
if given.get("fake.fail") == clip.parent.name:
    print("error: system.loss.lambda_<b>rgb</b> is 'x'; it takes float.", flush=True)
    sys.exit(2)
checkpoint = trial / "ckpts" / "last.ckpt"
step = int(checkpoint.read_text()) if "resume" in given else 0
print(f"starts at {step}", flush=True)
logs = trial / "csv_logs" / f"version_{len(list(trial.glob('csv_logs/*')))}"
logs.mkdir(parents=True)
rows = ["step,train/loss"]
while step < 10:
    if state["stop"]:
        print("stopped", flush=True)
        sys.exit(143)
    time.sleep(float(given.get("fake.seconds", 0)) / 10)
    step += 1
    rows.append(f"{step},{100 / step}")
    checkpoint.write_text(str(step))
    (logs / "metrics.csv").write_text("\\n".join(rows))
    print(f"train {step}/10 ({10 * step}%)", flush=True)
for view in ("az-75", "az15", "az105", "az195"):
    target = trial / "save" / "eval" / view
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(clip, target)
    if "fake.wrong" in given:
        (target / "0.png").unlink()
"""


def write_clip(folder: Path, shift: int, size: int = 24) -> None:
    """Frames of a coloured square that moves one pixel a frame."""
    folder.mkdir(parents=True)
    for frame in range(FRAMES):
        image = np.zeros((size, size, 4), np.uint8)
        image[6:18, 4 + frame + shift : 12 + frame + shift] = (200, 60 + 10 * shift, 40, 255)
        Image.fromarray(image).save(folder / f"{frame}.png")


def write_data(root: Path, objects: tuple[str, ...] = ("cat", "dog")) -> Path:
    """``root/<object>/<view>/<frame>.png``; the views differ."""
    for name in objects:
        for shift, view in enumerate(VIEWS):
            write_clip(root / name / view, shift)
    return root


def write_launcher(folder: Path) -> Path:
    path = folder / "fake_launch.py"
    path.write_text(LAUNCHER)
    return path


class Runner:
    """The runner's command line, in a fork of the test process, which has the slow imports behind it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._output = folder / f"output-{time.monotonic_ns()}.txt"
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_runner(folder, arguments)

    def _be_the_runner(self, folder: Path, arguments: tuple[str, ...]) -> None:
        code = 99
        try:
            sink = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
            os.chdir(folder)
            code = main(list(arguments))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def printed(self) -> str:
        return self._output.read_text() if self._output.exists() else ""

    def wait(self, seconds: float = 60) -> tuple[int, str]:
        """Exit status (negative: killed by that signal) and all that was printed."""
        end = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(self._status), self.printed()
