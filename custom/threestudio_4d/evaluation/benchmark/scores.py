"""Methods of a benchmark against the truth: trained configs, trivial baselines, results from elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from ...atomic import write_bytes
from ...errors import UserError
from ..evaluate import evaluate_folders
from ..folders import TRIAL_FRAMES, Pair, pair_folders
from ..novel_views import azimuth, in_order
from ..protocols import REFERENCE_VIEW, find_protocol
from .runs import DONE, Job, RunState, write_json
from .spec import Spec, slug

BEHIND_DEGREES = 60  # a view counts as from behind if it is this near to the opposite of the input


@dataclass
class Method:
    """One row of the tables.

    Attributes:
        name: as the report shows it.
        kind: ``config`` (trained here), ``baseline`` or ``result`` (made elsewhere).
        frames: seed -> object -> folder of its views. Only what is complete.
        scores: seed -> what the evaluator found, as plain values.
        problems: why something could not be evaluated.
    """

    name: str
    kind: str
    frames: dict[int, dict[str, Path]] = field(default_factory=dict)
    scores: dict[int, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def values(self, metric: str, name: str) -> list[float]:
        """A metric of an object, of every seed that has it."""
        found = (score["objects"].get(name, {}).get(metric) for score in self.scores.values())
        return [value for value in found if value is not None]

    def value(self, metric: str, name: str) -> float | None:
        """Mean over seeds."""
        values = self.values(metric, name)
        return mean(values) if values else None

    def spread(self, metric: str, name: str) -> float | None:
        """Standard deviation over seeds, if there are several."""
        values = self.values(metric, name)
        return pstdev(values) if len(values) > 1 else None

    def total(self, metric: str) -> float | None:
        """Over all objects, as the evaluator has it; mean over seeds."""
        values = [s["mean"][metric] for s in self.scores.values() if s["mean"].get(metric) is not None]
        return mean(values) if values else None

    def objects(self) -> list[str]:
        """Objects that every seed has."""
        sets = [set(score["objects"]) for score in self.scores.values()]
        return sorted(set.intersection(*sets)) if sets else []


def collect(spec: Spec, jobs: Sequence[Job], states: Mapping[str, RunState], out: Path) -> list[Method]:
    """All methods with what they have of frames, in the order of the report."""
    methods, views = [], compared_views(spec)
    for config in spec.configs:
        method = Method(config.name, "config")
        for job in jobs:
            if job.config == config.name and states[job.id].status == DONE:
                method.frames.setdefault(job.seed, {})[job.object] = Path(job.folder) / TRIAL_FRAMES
        methods.append(method)
    for result in spec.results:
        there = {name: folder for name in spec.data.objects if (folder := _views(result.folder / name)).is_dir()}
        method = Method(result.name, "result", {0: there} if there else {})
        lacking = [name for name in spec.data.objects if name not in there]
        if lacking:
            method.problems.append(f"{result.folder} has no folder for {', '.join(lacking)}")
        methods.append(method)
    for name in spec.baselines:
        folder = out / "baselines" / name
        frames = {}
        for thing in spec.data.objects:
            write_baseline(name, spec.data.folder(thing), spec.data.input, views, folder / thing)
            frames[thing] = folder / thing
        methods.append(Method(name, "baseline", {0: frames}))
    return methods


def compared_views(spec: Spec) -> list[str]:
    """Views that are compared: those that the benchmark names, else the protocol's, else all of the truth but the
    input.
    """
    views = spec.evaluation.views or find_protocol(spec.evaluation.protocol).views
    if views is not None:
        return list(views)
    inputs, folder = (spec.data.input, REFERENCE_VIEW), spec.data.folder(spec.data.objects[0])
    return in_order(path.name for path in folder.iterdir() if path.is_dir() and path.name not in inputs)


def write_baseline(kind: str, truth: Path, input_view: str, views: Sequence[str], folder: Path) -> None:
    """``copy``: the input clip in place of every view. ``mirror``: the same, mirrored for views from behind."""
    for view in views:
        target, source = folder / view, truth / input_view
        if kind == "mirror" and is_behind(view):
            _mirror(source, target)
        elif not target.exists() or (target.is_symlink() and target.resolve() != source.resolve()):
            target.unlink(missing_ok=True)  # a link to where the data were
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source, target)


def _mirror(source: Path, target: Path) -> None:
    """Mirrored copies of the frames, unless they are there and newer."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.png"):
        made = target / path.name
        if made.exists() and made.stat().st_mtime > path.stat().st_mtime:
            continue
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise UserError(f"{path} cannot be read as a picture")
        write_bytes(made, cv2.imencode(".png", np.ascontiguousarray(picture[:, ::-1]))[1].tobytes())


def is_behind(view: str) -> bool:
    angle = azimuth(view)
    return angle is not None and abs((angle - 180 + 180) % 360 - 180) <= BEHIND_DEGREES


def evaluate_methods(spec: Spec, methods: Sequence[Method], out: Path, say: Callable[[str], None]) -> None:
    """Fill in the scores. Those of frames that have not changed are read from ``out/scores``."""
    settings = spec.evaluation.arguments() | {"views": compared_views(spec)}
    for method in methods:
        for seed, frames in method.frames.items():
            key = f"{method.kind}-{slug(method.name)}-s{seed}"
            good = {name: frames[name] for name in spec.data.objects if name in frames}
            good = {name: folder for name, folder in good.items() if _fits(spec, method, name, folder)}
            if not good:
                continue
            stamp = {"settings": settings, "data": str(spec.data.root)}
            stamp["frames"] = {name: _stamp(folder) for name, folder in good.items()}
            cache = out / "scores" / f"{key}.json"
            with contextlib.suppress(OSError, ValueError, KeyError):
                known = json.loads(cache.read_text(encoding="utf-8"))
                if known["of"] == stamp:
                    method.scores[seed] = known["scores"]
                    continue
            say(f"evaluating {method.name}" + (f", seed {seed}" if len(method.frames) > 1 else ""))
            folder = out / "compared" / key
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            for name, source in good.items():
                _link(source, folder / name)
            try:
                result = evaluate_folders(folder, spec.data.root, objects=list(good), track=_track, **settings)
            except UserError as error:
                method.problems.append(str(error))
                continue
            method.scores[seed] = result.to_dict()
            cache.parent.mkdir(exist_ok=True)
            write_json(cache, {"of": stamp, "scores": method.scores[seed]})


def _track(pairs: Sequence[Pair]) -> Iterable[Pair]:
    """A bar that vanishes when it is done; nothing where there is no terminal."""
    console = Console(stderr=True)
    return track(pairs, "clips", console=console, transient=True, disable=not console.is_terminal)


def _fits(spec: Spec, method: Method, name: str, frames: Path) -> bool:
    """Whether frames pair up with the truth; if not, the method's problems say why, and the other objects stay in."""
    try:
        pair_folders(frames, spec.data.folder(name), views=compared_views(spec))
    except UserError as error:
        method.problems.append(f"{name}: {error}")
        return False
    return True


def _views(folder: Path) -> Path:
    return folder / TRIAL_FRAMES if (folder / TRIAL_FRAMES).is_dir() else folder


def _stamp(folder: Path) -> list[Any]:
    """What tells whether frames have changed: how many there are, their bytes, and the newest."""
    stats = [path.stat() for path in sorted(folder.glob("*/*.png"))]
    return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime for s in stats), default=0.0)]


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source.resolve(), target, target_is_directory=True)
    except OSError:  # no links on this file system
        shutil.copytree(source, target)
