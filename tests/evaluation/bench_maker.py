"""A small benchmark with a launcher that trains nothing: what it does is written in its overrides.

``fake.fail=object``    that object's run prints an error and exits with 2
``fake.seconds=S``      each run takes about so long, in ten steps, with a checkpoint after each
``fake.wrong=true``     the result lacks a frame
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

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


def start(repository: Path, folder: Path, *arguments: str, **popen: object) -> subprocess.Popen:
    """The command line of the runner, in ``folder``, as a process of its own."""
    paths = os.pathsep.join(str(repository / name) for name in ("custom", "extern"))
    variables = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "threestudio_4d.evaluation.benchmark", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen
    )
