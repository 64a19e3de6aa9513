"""``evaluate_folders``: frames of a prediction against ground truth under a named protocol.

from threestudio_4d.evaluation import evaluate_folders
result = evaluate_folders("outputs/consistent4d/deer", "bench4d/deer")
result.mean["psnr"], result.to_json()
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .clip_similarity import ClipEmbedder, clip_4dgen, clip_t, cosine
from .folders import Pair, digest, pair_folders
from .frames import picture_size, read_views
from .fvd import VideoScores
from .image_metrics import PAIR_MEASURES
from .networks import Networks, find_device, lpips_of_clips
from .protocols import Metric, Protocol, find_metrics, find_protocol
from .result import Result
from .video_features import VideoFeatures

# Metrics of what changes from frame to frame.
_CHANGES = ("flicker", "clip_t", "clip_t_truth")


def evaluate_folders(
    predicted: str | Path,
    truth: str | Path,
    protocol: str | Protocol = "bench4d",
    metrics: Sequence[str] | None = None,
    *,
    objects: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    size: int | str | None = None,
    background: str | None = None,
    lpips: str | Path | None = None,
    clip: str | None = None,
    fvd_network: str | Path | VideoFeatures | None = None,
    device: str | torch.device | None = None,
    require: bool = False,
    track: Callable[[Sequence[Pair]], Iterable[Pair]] | None = None,
) -> Result:
    """Measure every view of every object.

    Args:
        predicted, truth: folders as :mod:`folders` describes them.
        protocol: ``bench4d`` or ``consistent4d`` (:data:`protocols.PROTOCOLS`).
        metrics: names of :data:`protocols.METRICS`; by default the protocol's.
        objects, views: only these; by default all objects and the protocol's views.
        size: pixels of a side instead of the protocol's; ``"native"`` compares frames at their own size.
        background: ``white`` or ``white-mask`` instead of the protocol's.
        lpips: folder with ``alex.safetensors`` and ``vgg.safetensors``; by default ``load/lpips``.
        clip: folder or hub id of a CLIP model; by default the published one if it is on this machine.
        fvd_network: file of an I3D network, or an extractor.
        device: where networks run; by default the GPU if there is one.
        require: raise if a metric cannot be computed, instead of leaving it out with the reason.
        track: wraps the list of pairs, to show progress.

    Raises:
        UserError: folders that do not pair up, frames that cannot be read, an unknown name, or (``require``) a metric
            that cannot be computed.
    """
    protocol = _adjusted(find_protocol(protocol), size, background)
    chosen = find_metrics(list(metrics) if metrics is not None else list(protocol.metrics))
    pairs = pair_folders(Path(predicted), Path(truth), objects, views, protocol.views)
    native = size == "native"
    if native:
        protocol = dataclasses.replace(protocol, size=_native_size(pairs))
    networks = Networks(find_device(device), lpips, clip)
    networks.load(chosen, protocol, fvd_network)
    skipped = networks.skipped
    if min(len(pair) for pair in pairs) < 2:
        skipped |= {m.name: "takes two frames or more" for m in chosen if m.name in _CHANGES}
    _check_required(skipped, require)
    chosen = [metric for metric in chosen if metric.name not in skipped]

    video_names = [metric.name for metric in chosen if metric.needs == "fvd"]
    video = VideoScores(networks.fvd, protocol, video_names) if video_names else None
    # The same numbers on every device: TensorFloat-32, the default of convolutions on a GPU, has three digits.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        values = _measure(pairs, chosen, protocol, networks, video, track)
    overall = {}
    if video is not None:
        for (name, view), value in video.pairs.items():
            values[name][view]["fvd_consistent4d"] = value
        overall = video.distances()
        skipped |= video.skipped
        _check_required(skipped, require)
    return _result(protocol, chosen, pairs, values, overall, networks, video, native)


def _measure(
    pairs: list[Pair],
    chosen: list[Metric],
    protocol: Protocol,
    networks: Networks,
    video: VideoScores | None,
    track: Callable[[Sequence[Pair]], Iterable[Pair]] | None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Object -> view -> metric -> value; the clips of each object go to ``video`` after its last view."""
    values: dict[str, dict[str, dict[str, float]]] = {}
    references: dict[str, np.ndarray] = {}
    looks_at_frames = any(metric.needs != "fvd" for metric in chosen)
    for index, pair in enumerate(track(pairs) if track is not None else pairs):
        scores = values.setdefault(pair.object, {}).setdefault(pair.view, {})
        if looks_at_frames:
            ours, theirs = (read_views(paths, protocol) for paths in (pair.predicted, pair.truth))
            scores |= {m.name: PAIR_MEASURES[m.name](ours, theirs) for m in chosen if m.name in PAIR_MEASURES}
            for trunk, network in networks.lpips.items():
                scores[f"lpips_{trunk}"] = lpips_of_clips(network, ours, theirs, networks.device)
            if networks.clip is not None:
                scores |= _clip_scores(
                    networks.clip, chosen, pair, ours, theirs, protocol, references, networks.skipped
                )
        is_last_view = index + 1 == len(pairs) or pairs[index + 1].object != pair.object
        if video is not None and is_last_view:
            video.add([other for other in pairs if other.object == pair.object])
    return values


def _adjusted(protocol: Protocol, size: int | str | None, background: str | None) -> Protocol:
    if background is not None:
        if background not in ("white", "white-mask"):
            raise UserError(f"--background is white or white-mask, not {background!r}")
        if background == "white-mask" and protocol.resize != "pil-bicubic":
            raise UserError(f"the protocol {protocol.name} blends alpha onto white; white-mask goes with consistent4d")
        protocol = dataclasses.replace(protocol, background=background)
    if size is None or size == "native":
        return protocol
    if not isinstance(size, int) or not 11 <= size <= 8192:
        raise UserError(
            f"--size takes a number of pixels from 11 (the window of SSIM) to 8192, or native; not {size!r}"
        )
    return dataclasses.replace(protocol, size=size)


def _native_size(pairs: Sequence[Pair]) -> int:
    """The one size that all frames have."""
    sizes: dict[tuple[int, int], Path] = {}
    for pair in pairs:
        for path in (*pair.predicted, *pair.truth):
            sizes.setdefault(picture_size(path), path)
    if len(sizes) > 1:
        (first, path), (second, other) = list(sizes.items())[:2]
        raise UserError(
            f"{path} is {first[0]} x {first[1]} pixels and {other} is {second[0]} x {second[1]}: "
            "give --size N to resize them"
        )
    ((width, height), path) = next(iter(sizes.items()))
    if min(width, height) < 11:
        raise UserError(f"{path} is {width} x {height} pixels, less than the window of SSIM: give --size N")
    return width


def _clip_scores(
    embedder: ClipEmbedder,
    metrics: list[Metric],
    pair: Pair,
    ours: np.ndarray,
    theirs: np.ndarray,
    protocol: Protocol,
    references: dict[str, np.ndarray],
    skipped: dict[str, str],
) -> dict[str, float]:
    names = {metric.name for metric in metrics if metric.needs == "clip"}
    a, b = embedder.embed(ours), embedder.embed(theirs)
    scores = {"clip": cosine(a, b)}
    if "clip_t" in names or "clip_t_truth" in names:
        scores |= {"clip_t": clip_t(a), "clip_t_truth": clip_t(b)}
    if len(pair.reference) != len(pair):
        if "clip_4dgen" in names:
            reason = f"{pair.object}: the ground truth has no view ref (the input) of {len(pair)} frames"
            skipped.setdefault("clip_4dgen", reason)
    elif "clip_4dgen" in names:
        if pair.object not in references:
            references.clear()  # one object's at a time
            references[pair.object] = embedder.embed(read_views(pair.reference, protocol))
        scores["clip_4dgen"] = clip_4dgen(a, references[pair.object])
    return {name: value for name, value in scores.items() if name in names}


def _check_required(skipped: dict[str, str], require: bool) -> None:
    if require and skipped:
        name, reason = next(iter(skipped.items()))
        raise UserError(f"{name} was asked for and cannot be computed: {reason}")


def _result(
    protocol: Protocol,
    chosen: list[Metric],
    pairs: list[Pair],
    values: dict[str, dict[str, dict[str, float]]],
    overall: dict[str, float],
    networks: Networks,
    video: VideoScores | None,
    native: bool,
) -> Result:
    skipped = networks.skipped
    for name, of_object in values.items():
        for view, scores in of_object.items():
            of_object[view] = {key: value for key, value in scores.items() if key not in skipped}
            bad = [key for key, value in of_object[view].items() if not math.isfinite(value)]
            if bad:
                raise UserError(f"{bad[0]} of {name}, view {view}, is not a finite number: look at these frames")
    kept = [metric for metric in chosen if metric.name not in skipped]
    sides = ("predicted", "truth", "reference") if "clip_4dgen" in {m.name for m in kept} else ("predicted", "truth")
    described: dict[str, Any] = dict(networks.described)
    if video is not None:
        described["fvd"] |= {"clips": video.clips()}
    return Result(
        protocol=protocol.name,
        version=protocol.version,
        metrics=[metric.name for metric in kept],
        views=list(dict.fromkeys(pair.view for pair in pairs)),
        frames={f"{pair.object}/{pair.view}": len(pair) for pair in pairs},
        size=protocol.size,
        background=protocol.background,
        resize="none" if native else protocol.resize,
        values=values,
        overall=overall,
        skipped=skipped,
        networks=described,
        digests={side: digest(pairs, side) for side in sides},
    )
