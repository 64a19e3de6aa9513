"""Pictures of a test run: frames to measure, videos to watch, one sheet to glance at.

A *split* is a sequence of view-time samples that the test data name in ``split_name``:

=================  ============================================================================================
``eval/<view>``    evaluation frames ``eval/<view>/<frame>.png``: RGBA, straight alpha, ``eval_frame_size`` square
anything else      RGB frames ``it<step>-test/<split>/<k>.png`` and the video ``it<step>-test/<split>.mp4``
=================  ============================================================================================

An evaluation view also gets a video. All paths are relative to the trial's ``save`` folder.
"""

from __future__ import annotations

import glob
import math
import os
from typing import Any

import cv2
import numpy as np

from threestudio.utils.typing import Float, Tensor

from ..atomic import write_bytes
from ..errors import UserError

EVAL_PREFIX = "eval/"
SHEET_COLUMNS = 8
SHEET_TILE = 128


def straight_alpha(
    comp_rgb: Float[np.ndarray, "H W 3"], alpha: Float[np.ndarray, "H W 1"], size: int | None = None
) -> np.ndarray:
    """RGBA picture, uint8 ``[size, size, 4]``, of a render that was composited on white.

    The composite is ``alpha * rgb + (1 - alpha)``. Resizing, if any, happens on premultiplied colour, so that no
    background bleeds into the silhouette. Where alpha is 0 the colour is black.
    """
    alpha = np.clip(alpha, 0.0, 1.0)
    premultiplied = np.concatenate([comp_rgb - (1.0 - alpha), alpha], axis=-1).astype(np.float32)
    if size is not None and premultiplied.shape[:2] != (size, size):
        shrinks = size < premultiplied.shape[0]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        premultiplied = cv2.resize(premultiplied, (size, size), interpolation=method)
    alpha = np.clip(premultiplied[..., 3:], 0.0, 1.0)
    rgb = np.where(alpha > 0.5 / 255, premultiplied[..., :3] / np.maximum(alpha, 1e-6), 0.0)
    return to_uint8(np.concatenate([rgb, alpha], axis=-1))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round values of [0, 1] to uint8; values outside are clipped."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def write_png(path: str, image: np.ndarray) -> None:
    """Write uint8 RGB or RGBA to ``path``."""
    order = cv2.COLOR_RGBA2BGRA if image.shape[-1] == 4 else cv2.COLOR_RGB2BGR
    encoded, data = cv2.imencode(".png", cv2.cvtColor(image, order))
    if not encoded:
        raise OSError(f"could not encode {path} as PNG")
    write_bytes(path, data.tobytes())


def depth_picture(depth: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Depth ``[H, W, 1]`` (sum of weight times distance) as grey ``[H, W, 3]``: near is dark, empty space is white."""
    distance = depth / np.maximum(opacity, 1e-6)
    solid = opacity > 0.5
    if not solid.any():
        return np.ones((*depth.shape[:2], 3), dtype=np.float32)
    near, far = np.percentile(distance[solid], (1, 99))
    grey = 0.1 + 0.7 * np.clip((distance - near) / max(far - near, 1e-6), 0, 1)
    return np.repeat(grey * opacity + (1 - opacity), 3, axis=-1)


class Picture:
    """One sample of a render as numpy pictures ``[H, W, 3]`` in [0, 1], on white; ``alpha`` is ``[H, W, 1]``.

    Raises:
        UserError: pixels are NaN or infinite.
    """

    def __init__(self, rendered: dict[str, Tensor], sample: int) -> None:
        def part(key: str) -> np.ndarray:
            image = rendered[key][sample].detach().float().cpu().numpy()
            bad = np.count_nonzero(~np.isfinite(image).all(axis=-1))
            if bad:
                raise UserError(
                    f"{bad} of {image[..., 0].size} pixels of the render ({key}) are NaN or infinite: the field's "
                    "density or colour overflows. Use an earlier checkpoint; in training, a smaller learning rate."
                )
            return image

        self.comp_rgb, self.alpha = part("comp_rgb"), part("opacity")
        self.rgb = np.clip(self.comp_rgb, 0, 1)
        self.opacity = np.repeat(np.clip(self.alpha, 0, 1), 3, axis=-1)
        shade = part("comp_normal") if "comp_normal" in rendered else 0.5 * self.alpha
        self.normal = np.clip(shade + (1 - self.alpha), 0, 1) * np.ones(3)
        self.depth = depth_picture(part("depth"), self.alpha)

    @property
    def strip(self) -> np.ndarray:
        """Colour, normal, depth and opacity side by side."""
        return np.concatenate([self.rgb, self.normal, self.depth, self.opacity], axis=1)


def guidance_sheet(renders: Float[Tensor, "B H W 3"], evaluation: dict[str, Any]) -> np.ndarray:
    """One row for each render: the render, the noisy picture that the prior saw, and the clean one that it predicts."""
    columns = [renders, evaluation["imgs_noisy"], evaluation["imgs_1step"]]
    size = columns[1].shape[1]
    stacks = [images.detach().float().cpu().numpy() for images in columns]
    stacks[0] = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in stacks[0]])
    return np.clip(np.concatenate([np.concatenate(list(stack), axis=0) for stack in stacks], axis=1), 0, 1)


class ResultPictures:
    """Collects the renders of a test run.

    Args:
        saver: the system (its saver mixin, ``cfg.eval_frame_size`` and ``cfg.video_fps``).
        folder: where videos and their frames go, relative to the save folder.
    """

    def __init__(self, saver: Any, folder: str) -> None:
        self._saver, self._folder = saver, folder
        self._lengths: dict[str, int] = {}
        self._tiles: dict[str, dict[int, list[np.ndarray]]] = {}

    def shows_normals(self, split: str) -> bool:
        """Whether the pictures of a split need ``comp_normal``: only the first split of a run shows its normals."""
        return not self._lengths or split == next(iter(self._lengths))

    def add(self, batch: dict[str, Any], rendered: dict[str, Tensor]) -> None:
        """Write the frames of a batch of view-time samples (``split_name``, ``frame_index``) and their render."""
        for sample, (split, frame) in enumerate(zip(batch["split_name"], batch["frame_index"].tolist(), strict=True)):
            self._add_one(split, frame, Picture(rendered, sample))

    def _add_one(self, split: str, frame: int, picture: Picture) -> None:
        order = self._lengths.get(split, 0)
        if order == 0:
            self._remove_old_frames(split)
        self._lengths[split] = order + 1
        if split.startswith(EVAL_PREFIX):
            rgba = straight_alpha(picture.comp_rgb, picture.alpha, self._saver.cfg.eval_frame_size)
            write_png(self._saver.get_save_path(f"{split}/{frame}.png"), rgba)
        write_png(self._saver.get_save_path(f"{self._frames(split)}/{order}.png"), to_uint8(picture.rgb))
        tiles = [_thumbnail(image) for image in (picture.rgb, picture.normal, picture.depth, picture.opacity)]
        self._tiles.setdefault(split, {})[order] = tiles

    def finish(self) -> None:
        """Make the videos, unless ``video_fps`` is 0, and the contact sheet."""
        fps = self._saver.cfg.video_fps
        for frames in map(self._frames, self._lengths if fps else ()):
            self._saver.save_img_sequence(f"{frames}.mp4", frames, r"(\d+)\.png", save_format="mp4", fps=fps)
        if self._tiles:
            write_png(self._saver.get_save_path(f"{self._folder}/contact_sheet.png"), self._contact_sheet())
        self._tiles.clear()

    def _remove_old_frames(self, split: str) -> None:
        """Drop frames of an earlier test of the same step, which may have had more of them."""
        for folder in {self._frames(split), split if split.startswith(EVAL_PREFIX) else self._frames(split)}:
            for path in glob.glob(os.path.join(glob.escape(self._saver.get_save_path(folder)), "[0-9]*.png")):
                os.remove(path)

    def _frames(self, split: str) -> str:
        return f"{self._folder}/{split.replace('/', '-')}"

    def _contact_sheet(self) -> np.ndarray:
        """One row of colour for each split, times from left to right; below, normal, depth and opacity of the first
        split.
        """
        first = next(iter(self._tiles))
        rows = [_row(split, tiles, 0) for split, tiles in self._tiles.items()]
        rows += [
            _row(f"{first} {kind}", self._tiles[first], 1 + k) for k, kind in enumerate(("normal", "depth", "opacity"))
        ]
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
        return np.concatenate(rows, axis=0)


def _row(label: str, tiles: dict[int, list[np.ndarray]], kind: int) -> np.ndarray:
    """Evenly spaced tiles of a split side by side, with a label."""
    count = min(SHEET_COLUMNS, len(tiles))
    chosen = [math.floor(k * len(tiles) / count) for k in range(count)]
    row = np.ascontiguousarray(np.concatenate([tiles[order][kind] for order in chosen], axis=1))
    cv2.putText(row, label, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (60, 60, 60), 1, cv2.LINE_AA)
    return row


def _thumbnail(image: np.ndarray) -> np.ndarray:
    method = cv2.INTER_AREA if image.shape[0] > SHEET_TILE else cv2.INTER_LINEAR
    return to_uint8(cv2.resize(image.astype(np.float32), (SHEET_TILE, SHEET_TILE), interpolation=method))
