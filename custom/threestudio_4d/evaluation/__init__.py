"""Measures of results against ground truth: novel views of a clip, frame by frame and over time.

``evaluate`` compares folders under a protocol (``evaluate_folders``, ``python -m threestudio_4d.evaluation``);
``protocols`` defines protocols and metrics, ``folders`` pairs files or refuses, ``frames`` reads them, ``networks``
loads what metrics need, ``result`` holds what was found. The measures: ``novel_views`` and ``image_metrics`` (PSNR,
SSIM, IoU, flicker), ``lpips``, ``clip_similarity``, ``fvd`` with ``frechet``, ``video_features`` and ``i3d``.
``benchmark`` trains, measures and reports in one go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .evaluate import evaluate_folders
    from .result import Result

__all__ = ["Result", "evaluate_folders"]


def __getattr__(name: str) -> Any:
    """The two public names, imported when they are first used: they bring torch and the readers along."""
    if name == "evaluate_folders":
        from .evaluate import evaluate_folders

        return evaluate_folders
    if name == "Result":
        from .result import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
