"""Arrays to uint8 RGB pictures (panels, colour maps, grids, text), and image files. All on numpy arrays."""

import os
from typing import Any

import cv2
import numpy as np

from threestudio.utils.atomic import write_bytes

__all__ = [
    "cubemap_cross",
    "draw_texts",
    "grayscale_panel",
    "image_grid",
    "read_rgb",
    "rgb_panels",
    "to_bgr",
    "write_image",
    "uv_panel",
]


def read_rgb(path: str) -> np.ndarray:
    """Pixels [H, W, 3] uint8 of an image file; transparent pixels are put on white."""
    img = cv2.imread(path, cv2.IMREAD_UNCHANGED) if os.path.isfile(path) else None
    if img is None:
        raise OSError(f"The image '{path}' cannot be read.")
    if img.dtype != np.uint8:
        img = (img / 257).astype(np.uint8)
    if img.ndim == 2:
        return np.repeat(img[..., None], 3, axis=-1)
    rgb = img[..., 2::-1]
    if img.shape[-1] == 4:
        alpha = img[..., 3:].astype(np.float32) / 255
        rgb = np.round(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(rgb)


def write_image(path: str, rgb: np.ndarray) -> None:
    """Write RGB(A) or gray pixels in the format of the suffix; the file appears under its name only when it is
    complete.
    """
    encoded, data = cv2.imencode(os.path.splitext(path)[1] or ".png", to_bgr(rgb))
    if not encoded:
        raise OSError(f"The image '{path}' could not be encoded.")
    write_bytes(path, data.tobytes())


def to_bgr(rgb: np.ndarray) -> np.ndarray:
    """RGB(A) to the BGR(A) order that OpenCV writes."""
    if rgb.ndim == 2 or rgb.shape[-1] == 1:
        return rgb
    if rgb.shape[-1] == 4:
        return cv2.cvtColor(rgb, cv2.COLOR_RGBA2BGRA)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)


def rgb_panels(img: np.ndarray, data_format: str, data_range: tuple[float, float]) -> np.ndarray:
    """uint8 [H, W * ceil(C / 3), 3]; floats are clipped to ``data_range``, uint8 is kept."""
    img = _channels_last(img, data_format)
    img = _to_uint8(img, data_range)
    panels = []
    for start in range(0, img.shape[-1], 3):
        panel = img[..., start : start + 3]
        if panel.shape[-1] < 3:
            panel = np.concatenate([panel, np.zeros_like(panel[..., :1]).repeat(3 - panel.shape[-1], axis=-1)], axis=-1)
        panels.append(panel)
    return np.ascontiguousarray(np.concatenate(panels, axis=1))


def uv_panel(img: np.ndarray, data_format: str, data_range: tuple[float, float], cmap: str) -> np.ndarray:
    """uint8 [H, W, 3] of UV coordinates [H, W, 2]."""
    low, high = data_range
    uv = (np.clip(_channels_last(img, data_format)[..., :2], low, high) - low) / (high - low)
    if cmap == "checkerboard":
        squares = (uv * 64).astype(np.int64).sum(axis=-1) % 2
        return np.repeat((squares * 255).astype(np.uint8)[..., None], 3, axis=-1)
    if cmap == "color":
        color = np.zeros((*uv.shape[:2], 3), dtype=np.uint8)
        color[..., 0] = (uv[..., 0] * 255).astype(np.uint8)
        color[..., 1] = (uv[..., 1] * 255).astype(np.uint8)
        return color
    raise ValueError(f"cmap of a UV image is 'checkerboard' or 'color', got {cmap!r}.")


def grayscale_panel(img: np.ndarray, data_range: tuple[float, float] | None, cmap: str | None) -> np.ndarray:
    """uint8 [H, W, 3] of one channel; a constant image maps to the low end. NaN counts as zero."""
    img = np.nan_to_num(np.asarray(img, dtype=np.float32))
    if img.ndim == 3 and img.shape[-1] == 1:
        img = img[..., 0]
    if img.ndim != 2:
        raise ValueError(f"A grayscale image has shape [H, W] or [H, W, 1], got {list(img.shape)}.")
    low, high = (float(img.min()), float(img.max())) if data_range is None else data_range
    unit = (np.clip(img, low, high) - low) / (high - low) if high > low else np.zeros_like(img)
    gray = (unit * 255).astype(np.uint8)
    if cmap is None:
        return np.repeat(gray[..., None], 3, axis=-1)
    maps = {"jet": cv2.COLORMAP_JET, "magma": cv2.COLORMAP_MAGMA, "spectral": cv2.COLORMAP_TURBO}
    if cmap not in maps:
        raise ValueError(f"cmap is None, 'jet', 'magma' or 'spectral', got {cmap!r}.")
    return cv2.cvtColor(cv2.applyColorMap(gray, maps[cmap]), cv2.COLOR_BGR2RGB)


def image_grid(rows: list[list[np.ndarray]], align: Any) -> np.ndarray:
    """Resize all cells to one size (bilinear) and join them; short rows are filled with black."""
    cells = [cell for row in rows for cell in row]
    if align == "max":
        size = (max(c.shape[0] for c in cells), max(c.shape[1] for c in cells))
    elif align == "min":
        size = (min(c.shape[0] for c in cells), min(c.shape[1] for c in cells))
    elif isinstance(align, int):
        size = (align, align)
    elif isinstance(align, (tuple, list)) and len(align) == 2:
        size = (int(align[0]), int(align[1]))
    else:
        raise ValueError(f"align is 'max', 'min', an int or (height, width), got {align!r}.")
    columns = max(len(row) for row in rows)
    blank = np.zeros((*size, 3), dtype=np.uint8)
    lines = []
    for row in rows:
        line = [c if c.shape[:2] == size else cv2.resize(c, size[::-1], interpolation=cv2.INTER_LINEAR) for c in row]
        lines.append(np.concatenate(line + [blank] * (columns - len(line)), axis=1))
    return np.concatenate(lines, axis=0)


def draw_texts(img: np.ndarray, texts: list[str]) -> np.ndarray:
    """Draw one text above the other at the left edge, spread over the height."""
    img = np.ascontiguousarray(img)
    height = img.shape[0]
    for i, text in enumerate(texts):
        y = int((i + 0.5) * height / len(texts))
        cv2.putText(img, str(text), (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(img, str(text), (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return img


def cubemap_cross(img: np.ndarray, data_range: tuple[float, float], rgba: bool) -> np.ndarray:
    """uint8 [3S, 4S, 3 or 4] of faces [6, S, S, C] in the order +x, -x, +y, -y, +z, -z."""
    if img.ndim != 4 or img.shape[0] != 6 or img.shape[1] != img.shape[2]:
        raise ValueError(f"A cubemap has shape [6, S, S, C], got {list(img.shape)}.")
    faces = _to_uint8(img, data_range)[..., :3]
    size = faces.shape[1]
    cross = np.zeros((3 * size, 4 * size, 4 if rgba else 3), dtype=np.uint8)
    for face, (row, column) in zip(faces, [(1, 2), (1, 0), (0, 1), (2, 1), (1, 1), (1, 3)], strict=True):
        cell = cross[row * size : (row + 1) * size, column * size : (column + 1) * size]
        cell[..., :3] = face
        if rgba:
            cell[..., 3] = 255
    return cross


def _channels_last(img: np.ndarray, data_format: str) -> np.ndarray:
    if data_format not in ("HWC", "CHW"):
        raise ValueError(f"data_format is 'HWC' or 'CHW', got {data_format!r}.")
    if img.ndim == 2:
        return img[..., None]
    if img.ndim != 3:
        raise ValueError(f"An image has shape [H, W, C] or [C, H, W], got {list(img.shape)}.")
    return img if data_format == "HWC" else img.transpose(1, 2, 0)


def _to_uint8(img: np.ndarray, data_range: tuple[float, float]) -> np.ndarray:
    if img.dtype == np.uint8:
        return img
    low, high = data_range
    unit = (np.clip(np.nan_to_num(img.astype(np.float32)), low, high) - low) / (high - low)
    return (unit * 255.0).astype(np.uint8)
