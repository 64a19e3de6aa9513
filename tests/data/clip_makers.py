"""A synthetic clip: a red ellipse with a blue dot that moves and grows, and writers for every kind of input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HIDDEN = (0, 255, 0)  # colour under alpha 0, which must never show


def draw(frame: int, count: int, height: int = 64, width: int = 64) -> np.ndarray:
    """uint8 [H, W, 4], straight alpha, soft silhouette."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    cx = width / 2 + 0.12 * width * (frame / max(count - 1, 1) - 0.5)
    radius = np.hypot((x - cx) / (0.26 * width), (y - height / 2) / (0.3 * height))
    alpha = np.clip((1.0 - radius) * 0.25 * min(height, width) + 0.5, 0.0, 1.0)
    rgb = np.where(radius[..., None] < 1.2, (200, 40, 30), HIDDEN).astype(np.uint8)
    rgb[np.hypot(x - cx, y - height / 2) < 0.1 * height] = (20, 30, 220)
    return np.dstack([rgb, np.round(alpha * 255).astype(np.uint8)])


def make_clip(count: int = 8, height: int = 64, width: int = 64) -> list[np.ndarray]:
    return [draw(i, count, height, width) for i in range(count)]


def over(frame: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    alpha = frame[..., 3:] / 255.0
    return np.round(frame[..., :3] * alpha + np.array(color) * (1 - alpha)).astype(np.uint8)


def write_folder(folder: Path, frames: list[np.ndarray], pattern: str = "{}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / pattern.format(i))
    return folder


def write_video(path: Path, frames: list[np.ndarray], codec: str, pix_fmt: str, options: dict | None = None) -> Path:
    av = pytest.importorskip("av")
    try:
        av.codec.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this PyAV has no {codec} encoder")
    form = {2: "gray", 3: "rgb24", 4: "rgba"}[frames[0].ndim if frames[0].ndim == 2 else frames[0].shape[2]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if pix_fmt == "yuva420p":
            stream.metadata["alpha_mode"] = "1"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=form)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
