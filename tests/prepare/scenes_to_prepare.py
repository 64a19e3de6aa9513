"""Synthetic inputs: a red ellipse with a dark dot that moves over a plain or a textured background."""

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 96, 160


def ellipse(center_x: float, center_y: float = 44.0, radius: float = 16.0) -> np.ndarray:
    """Soft alpha, float32 [HEIGHT, WIDTH]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return np.clip(radius - np.hypot((x - center_x) / 1.2, y - center_y) + 0.5, 0.0, 1.0)


def texture() -> np.ndarray:
    """float [HEIGHT, WIDTH, 3]: bluish and greenish noise, never red."""
    return np.random.default_rng(0).uniform((0, 40, 60), (70, 200, 220), (HEIGHT, WIDTH, 3))


def alphas(count: int = 6) -> list[np.ndarray]:
    return [ellipse(60 + 16 * k / max(count - 1, 1)) for k in range(count)]


def rgba(count: int = 6) -> list[np.ndarray]:
    out = []
    for alpha in alphas(count):
        rgb = np.full((HEIGHT, WIDTH, 3), (210, 30, 40), np.uint8)
        out.append(np.dstack([rgb, np.round(alpha * 255).astype(np.uint8)]))
    return out


def composed(background: np.ndarray | tuple[int, int, int], count: int = 6) -> list[np.ndarray]:
    """uint8 [HEIGHT, WIDTH, 3] a frame."""
    out = []
    for frame in rgba(count):
        alpha = frame[..., 3:] / 255.0
        out.append(np.round(frame[..., :3] * alpha + np.asarray(background) * (1 - alpha)).astype(np.uint8))
    return out


class RedFinder:
    """Stands for a matting network: what is red is the object."""

    name = "u2net"
    looks: list[tuple[int, int]] = []

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        self.looks.append(rgb.shape[:2])
        values = rgb.astype(np.float32)
        return np.clip((values[..., 0] - values[..., 1:].max(-1)) / 170.0, 0.0, 1.0)


def read_clip(folder: Path) -> np.ndarray:
    """uint8 [N, S, S, 4]."""
    files = sorted((p for p in folder.glob("*.png") if p.stem.isdigit()), key=lambda p: int(p.stem))
    return np.stack([np.asarray(Image.open(p)) for p in files])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a >= 0.5, b >= 0.5
    return float((a & b).sum() / (a | b).sum())
