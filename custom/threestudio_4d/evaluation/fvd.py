"""FVD in its three published meanings, over the view-time matrices of all objects.

``fvd_consistent4d`` compares clips pair by pair; ``fvd_styleganv`` and SV4D's four compare two *sets* of clips, so one
number describes the whole evaluation. SV4D (Xie et al. 2024, section 4, figure 7) defines by which path clips run
through the matrix of V views and T frames; its evaluation code is not public. How it is read here:

=========== ==================================== ============ ==============================================
name        in the paper                         clips        each clip
=========== ==================================== ============ ==============================================
FVD-F       over frames at each view             V            the T frames of one view
FVD-V       over views at each frame             T            the V views of one frame, by azimuth
FVD-Diag    over the diagonal images             V            frame t of view v + t, views wrapping around
FV4D        all images, bidirectional raster     1            view by view, every other one backwards in time
=========== ==================================== ============ ==============================================

Clips of all objects form the set. Its distance is the Frechet distance, of features prepared as StyleGAN-V's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import UserError
from .folders import Pair
from .frames import on_background
from .frechet import consistent4d_distance, frechet_distance_of_sets
from .novel_views import by_azimuth
from .protocols import Protocol
from .video_features import VideoFeatures, prepare_consistent4d, prepare_styleganv

#: frames of a clip of ``fvd_styleganv``, its FVD_16
STYLEGANV_FRAMES = 16

Cells = list[tuple[int, int]]  # (view, frame) of each image of a clip


def windows(views: int, frames: int) -> list[Cells]:
    """Consecutive clips of 16 frames of every view, without overlap; what is left over is not used."""
    starts = range(0, frames - STYLEGANV_FRAMES + 1, STYLEGANV_FRAMES)
    return [[(v, start + i) for i in range(STYLEGANV_FRAMES)] for v in range(views) for start in starts]


def along_frames(views: int, frames: int) -> list[Cells]:
    """FVD-F: every view in time."""
    return [[(v, t) for t in range(frames)] for v in range(views)]


def along_views(views: int, frames: int) -> list[Cells]:
    """FVD-V: every frame from all sides."""
    return [[(v, t) for v in range(views)] for t in range(frames)]


def diagonals(views: int, frames: int) -> list[Cells]:
    """FVD-Diag: from each view of the first frame, view and frame advance together; views wrap around."""
    return [[((v + t) % views, t) for t in range(frames)] for v in range(views)]


def serpentine(views: int, frames: int) -> list[Cells]:
    """FV4D: one clip of all images, rows of the matrix forwards and backwards in turn."""
    rows = [[(v, t) for t in range(frames)] for v in range(views)]
    return [[cell for v, row in enumerate(rows) for cell in (row if v % 2 == 0 else reversed(row))]]


PATHS: dict[str, Callable[[int, int], list[Cells]]] = {
    "fvd_styleganv": windows,
    "fvd_f": along_frames,
    "fvd_v": along_views,
    "fvd_diag": diagonals,
    "fv4d": serpentine,
}


@dataclass
class VideoScores:
    """Collects features object by object, then gives the distances.

    Attributes:
        extractor: the network.
        names: which of the metrics.
        pairs: ``fvd_consistent4d`` of each object and view.
        skipped: metric -> why it cannot be computed for these clips.
    """

    extractor: VideoFeatures
    protocol: Protocol
    names: Sequence[str]
    pairs: dict[tuple[str, str], float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    _sets: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )

    def add(self, pairs: Sequence[Pair]) -> None:
        """The clips of all views of one object."""
        order = by_azimuth([pair.view for pair in pairs])
        pairs = [pairs[index] for index in order]
        sides = [[self._frames(getattr(pair, side)) for pair in pairs] for side in ("predicted", "truth")]
        if "fvd_consistent4d" in self.names:
            extractor = self.extractor.consistent4d or self.extractor
            for pair, ours, theirs in zip(pairs, *sides, strict=True):
                if self._long_enough("fvd_consistent4d", len(pair), extractor):
                    logits = [extractor(prepare_consistent4d(clip)) for clip in (ours, theirs)]
                    self.pairs[pair.object, pair.view] = consistent4d_distance(*logits)
        wanted = [name for name in self.names if name in PATHS]
        if not wanted:
            return
        lengths = {len(pair) for pair in pairs}
        if len(lengths) > 1:
            raise UserError(
                f"{pairs[0].object}: views have {sorted(lengths)} frames; {', '.join(wanted)} need the same"
            )
        matrices = [[prepare_styleganv(view) for view in side] for side in sides]
        for name in wanted:
            paths = PATHS[name](len(pairs), len(pairs[0]))
            if not paths:
                self.skipped.setdefault(name, f"needs {STYLEGANV_FRAMES} frames or more, there are {len(pairs[0])}")
            for path in paths:
                if self._long_enough(name, len(path), self.extractor):
                    for matrix, features in zip(matrices, self._sets[name], strict=True):
                        features.append(self.extractor(_along(matrix, path)))

    def distances(self) -> dict[str, float]:
        """The distances of sets; what has fewer than two clips is put into ``skipped``."""
        found = {}
        for name, (ours, theirs) in self._sets.items():
            if name in self.skipped:
                continue
            if len(ours) < 2:
                self.skipped[name] = f"a Frechet distance takes two clips or more, there is {len(ours)}"
                continue
            ddof = 0 if name == "fvd_styleganv" else 1  # StyleGAN-V's covariance divides by the number of clips
            found[name] = frechet_distance_of_sets(np.stack(ours), np.stack(theirs), ddof)
        return found

    def clips(self) -> dict[str, int]:
        """How many clips stand behind each distance of sets."""
        return {name: len(ours) for name, (ours, _) in self._sets.items() if name not in self.skipped}

    def _frames(self, paths: Sequence[Path]) -> list[Image.Image]:
        return [on_background(path, self.protocol)[0] for path in paths]

    def _long_enough(self, name: str, length: int, extractor: VideoFeatures) -> bool:
        least = extractor.minimum_frames
        if length < least:
            self.skipped[name] = f"its clips have {length} images here, and the network needs {least}"
        return name not in self.skipped


def _along(matrix: Sequence[Tensor], path: Cells) -> Tensor:
    """The images of a path as a clip [3, T, H, W], of views [3, T, H, W]."""
    return torch.stack([matrix[view][:, frame] for view, frame in path], 1)
