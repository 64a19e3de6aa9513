"""The report of a benchmark: tables, charts, videos and where they come from, as ``report.md`` and ``report.html``.

Everything is collected once into plain values, also kept in ``results.json``; the two files only lay it out.
"""

from __future__ import annotations

import csv
import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ...atomic import WriteError, write_text
from ...errors import UserError
from ...video_files import write_video
from ..protocols import METRICS
from . import charts, pictures
from .layout import html_page, markdown_page
from .progress import duration
from .runs import DONE, FAILED, Job, RunState, write_json
from .scores import Method, compared_views
from .spec import Spec, slug

CURVE_POINTS = 300
FAILED_CELL, ABSENT_CELL = "failed", ""
BASELINE_TEXTS = {
    "copy": "the input clip in place of every view",
    "mirror": "the input clip in place of every view, mirrored for views from behind",
}


def write_report(
    spec: Spec,
    jobs: Sequence[Job],
    states: Mapping[str, RunState],
    methods: Sequence[Method],
    out: Path,
    made_with: Mapping[str, Any],
    say: Callable[[str], None] = lambda message: None,
) -> Path:
    """Write ``report.html`` (returned), ``report.md``, ``results.json``, and the pictures both show, into ``out``."""
    metrics = list(dict.fromkeys(key for m in methods for score in m.scores.values() for key in score["metrics"]))
    commits = list(dict.fromkeys(commit for job in jobs for commit in states[job.id].commits if commit))
    content: dict[str, Any] = {
        "title": f"Benchmark {spec.name}",
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "summary": _summary(spec, jobs, states),
        "means": _means_table(spec, jobs, states, methods, metrics),
        "tables": [table for key in metrics if (table := _object_table(spec, jobs, states, methods, key))],
        "notes": _notes(spec, methods, metrics) + _commit_notes(commits),
        "commits": commits or [made_with["commit"]],
        "charts": _write_svgs(out, "score", _score_charts(spec, methods, metrics)),
        "curves": _write_svgs(out, "loss", _curve_charts(jobs, say)),
        "comparisons": _write_comparisons(spec, methods, out, say),
        "runs": [_run_row(job, states[job.id]) for job in jobs],
        "failures": [_failure(job, states[job.id]) for job in jobs if states[job.id].status == FAILED],
        "protocol": _protocol(spec, methods, metrics),
        "made_with": dict(made_with),
        "spec": spec.as_text(),
    }
    scores = {method.name: {str(seed): score for seed, score in method.scores.items()} for method in methods}
    write_json(
        out / "results.json",
        {
            **{key: content[key] for key in ("title", "date", "spec", "protocol", "made_with", "runs", "failures")},
            "scores": scores,
        },
    )
    write_text(out / "report.md", markdown_page(content))
    path = out / "report.html"
    write_text(path, html_page(content, out))
    return path


def _summary(spec: Spec, jobs: Sequence[Job], states: Mapping[str, RunState]) -> str:
    counts = [states[job.id].status for job in jobs]
    done, failed = counts.count(DONE), counts.count(FAILED)
    sizes = {"config": len(spec.configs), "object": len(spec.data.objects), "seed": len(spec.seeds)}
    what = " x ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in sizes.items())
    seconds = sum(states[job.id].seconds for job in jobs)
    rest = len(jobs) - done - failed
    return (
        f"{what}: {done} of {len(jobs)} runs done"
        + (f", {failed} failed" if failed else "")
        + (f", {rest} not run yet" if rest else "")
        + f"; {duration(seconds)} of training in all."
    )


def _cell(value: float | None, metric: str, spread: float | None = None) -> str:
    if value is None:
        return ABSENT_CELL
    if not math.isfinite(value):
        return str(value)
    digits = METRICS[metric].digits if metric in METRICS else 3
    return f"{value:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _title(metric: str) -> str:
    if metric not in METRICS:
        return metric
    return f"{METRICS[metric].title} {'↑' if METRICS[metric].better == 'higher' else '↓'}"


def _best(values: Sequence[float | None], metric: str) -> set[int]:
    """Places of the best value, to the digits shown; none for a metric of unknown direction or a single value."""
    good = [(v, i) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    if metric not in METRICS or len(good) < 2 or metric.endswith("_truth"):
        return set()
    pick = max if METRICS[metric].better == "higher" else min
    top = _cell(pick(v for v, _ in good), metric)
    return {i for v, i in good if _cell(v, metric) == top}


def _means_table(
    spec: Spec, jobs: Sequence[Job], states: Mapping[str, RunState], methods: Sequence[Method], metrics: Sequence[str]
) -> dict[str, Any]:
    """One row a method. Methods that lack objects are never marked best: their means are of other objects."""
    whole = [len(method.objects()) == len(spec.data.objects) for method in methods]
    best = {
        key: _best([m.total(key) if full else None for m, full in zip(methods, whole, strict=True)], key)
        for key in metrics
    }
    rows = []
    for index, method in enumerate(methods):
        done = [states[job.id] for job in jobs if job.config == method.name and states[job.id].status == DONE]
        seconds = [state.seconds for state in done]
        of_method = [states[job.id].status for job in jobs if job.config == method.name]
        absent = FAILED_CELL if method.kind == "config" and set(of_method) == {FAILED} else ABSENT_CELL
        cells = [{"text": _cell(method.total(key), key) or absent, "best": index in best[key]} for key in metrics]
        cells.append({"text": f"{len(method.objects())} of {len(spec.data.objects)}", "best": False})
        trained = method.kind == "config"
        cells.append({"text": f"{mean(seconds):.0f}" if trained and seconds else ABSENT_CELL, "best": False})
        rows.append({"name": method.name, "kind": method.kind, "cells": cells})
    return {"columns": [*map(_title, metrics), "objects", "seconds a run"], "rows": rows}


def _object_table(
    spec: Spec, jobs: Sequence[Job], states: Mapping[str, RunState], methods: Sequence[Method], metric: str
) -> dict[str, Any] | None:
    """One metric: a row a method, a column an object; None for a metric of whole sets."""
    objects = spec.data.objects
    if not any(method.values(metric, name) for method in methods for name in objects):
        return None
    failed = {(job.config, job.object) for job in jobs if states[job.id].status == FAILED}
    best = {name: _best([method.value(metric, name) for method in methods], metric) for name in objects}
    rows = []
    for index, method in enumerate(methods):
        cells = []
        for name in objects:
            text = _cell(method.value(metric, name), metric, method.spread(metric, name))
            if not text and method.kind == "config" and (method.name, name) in failed:
                text = FAILED_CELL
            cells.append({"text": text, "best": index in best[name]})
        rows.append({"name": method.name, "kind": method.kind, "cells": cells})
    return {"title": _title(metric), "columns": list(objects), "rows": rows}


def _notes(spec: Spec, methods: Sequence[Method], metrics: Sequence[str]) -> list[str]:
    """What a reader of the tables has to know."""
    notes = [f"{name}: {BASELINE_TEXTS[name]}." for name in spec.baselines]
    if any(len(method.objects()) < len(spec.data.objects) for method in methods):
        notes.append("Means of methods that lack objects are of the objects they have, and are not compared.")
    if len(spec.seeds) > 1:
        notes.append(f"Means over {len(spec.seeds)} seeds; ± is the standard deviation over seeds.")
    skipped = {key: why for m in methods for score in m.scores.values() for key, why in score["skipped"].items()}
    for reason in dict.fromkeys(skipped.values()):
        names = [METRICS[key].title for key, why in skipped.items() if why == reason]
        notes.append(f"Left out: {', '.join(names)}: {reason}")
    if skipped:
        notes.append("A benchmark file names networks under evaluation: lpips, clip, fvd_network.")
    notes += [f"{method.name}: {problem}" for method in methods for problem in dict.fromkeys(method.problems)]
    return notes


def _commit_notes(commits: Sequence[str]) -> list[str]:
    return ["The runs are not all of the same code: results.json has the commits of each."] if len(commits) > 1 else []


def _score_charts(spec: Spec, methods: Sequence[Method], metrics: Sequence[str]) -> dict[str, str]:
    shown = [method for method in methods if method.scores]
    palette = charts.colours([method.kind for method in shown])
    found = {}
    for key in metrics:
        if key.endswith("_truth"):
            continue
        series = {method.name: [method.value(key, name) for name in spec.data.objects] for method in shown}
        digits = METRICS[key].digits if key in METRICS else 3
        if svg := charts.bar_chart(_title(key), spec.data.objects, series, palette, digits):
            found[key] = svg
    return found


def read_curve(folder: Path) -> list[tuple[float, float]]:
    """(step, training loss) from the CSV logs of a trial; what a resumed run logged again replaces what stood there.

    Raises:
        UserError: a log is damaged.
    """
    points: dict[float, float] = {}
    versions = sorted(folder.glob("csv_logs/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[-1]))
    for path in versions:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if row.get("train/loss") and row.get("step")]
            new = {float(row["step"]): float(row["train/loss"]) for row in rows}
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise UserError(f"{path} is damaged ({error}); its curve is left out") from error
        if new:
            points = {step: loss for step, loss in points.items() if step < min(new)} | new
    curve = sorted(points.items())
    return curve[:: max(1, math.ceil(len(curve) / CURVE_POINTS))]


def _curve_charts(jobs: Sequence[Job], say: Callable[[str], None]) -> dict[str, str]:
    found = {}
    for config in dict.fromkeys(job.config for job in jobs):
        own = [job for job in jobs if job.config == config]
        several = len({job.seed for job in own}) > 1
        series = {}
        for job in own:
            try:
                curve = read_curve(Path(job.folder))
            except UserError as error:
                say(f"warning: {error}")
                continue
            if len(curve) > 1:
                series[f"{job.object} s{job.seed}" if several else job.object] = curve
        if svg := charts.line_chart(f"training loss, {config}", series, charts.colours(["config"] * len(series))):
            found[slug(config)] = svg
    return found


def _write_svgs(out: Path, prefix: str, found: Mapping[str, str]) -> list[dict[str, str]]:
    (out / "charts").mkdir(exist_ok=True)
    entries = []
    for key, svg in found.items():
        path = f"charts/{prefix}-{slug(key)}.svg"
        write_text(out / path, svg)
        entries.append({"name": key, "path": path, "svg": svg})
    return entries


def _write_comparisons(
    spec: Spec, methods: Sequence[Method], out: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Side by side for each object, of the first seed that has it: input, methods (baselines only repeat the input),
    truth.
    """
    (out / "videos").mkdir(exist_ok=True)
    (out / "sheets").mkdir(exist_ok=True)
    entries, views = [], compared_views(spec)
    for name in spec.data.objects:
        say(f"comparing {name}")
        truth = spec.data.folder(name)
        columns = {"input": dict.fromkeys(views, truth / spec.data.input)}
        for method in methods:
            found = next((frames[name] for frames in method.frames.values() if name in frames), None)
            if found is not None and method.kind != "baseline":
                columns[method.name] = {view: found / view for view in views}
        columns["truth"] = {view: truth / view for view in views}
        comparison = pictures.Comparison(columns, views)
        video, sheet = f"videos/{slug(name)}.mp4", f"sheets/{slug(name)}.jpg"
        entry = {"name": name, "columns": list(columns), "views": views, "video": None, "sheet": None, "problem": ""}
        try:
            pictures.write_jpeg(out / sheet, comparison.sheet())
            entry["sheet"] = sheet
            write_video(out / video, comparison.frames(), pictures.FPS, crf=20, preset="slow")
            entry["video"] = video
        except WriteError:
            raise
        except UserError as error:
            entry["problem"] = str(error)
        entries.append(entry)
    return entries


def _run_row(job: Job, state: RunState) -> dict[str, Any]:
    return {
        "id": job.id, "config": job.config, "object": job.object, "seed": job.seed, "status": state.status,
        "seconds": round(state.seconds, 1), "starts": state.starts, "device": state.device, "host": state.host,
        "exit_code": state.exit_code, "reason": state.reason, "commits": list(state.commits),
    }  # fmt: skip


def _failure(job: Job, state: RunState) -> dict[str, Any]:
    return {
        "id": job.id, "reason": state.reason, "exit_code": state.exit_code, "log_tail": list(state.log_tail),
        "log": f"runs/{job.id}/run.log", "command": list(state.command),
    }  # fmt: skip


def _protocol(spec: Spec, methods: Sequence[Method], metrics: Sequence[str]) -> dict[str, Any]:
    scores = [score for method in methods for score in method.scores.values()]
    first = scores[0] if scores else {}
    kept = ("protocol", "protocol_version", "size", "background", "resize", "views", "frames", "networks", "versions")
    return {
        "name": spec.evaluation.protocol,
        "record": {key: first[key] for key in kept if key in first},
        "sha256": {
            f"{method.name}" + (f", seed {seed}" if len(method.scores) > 1 else ""): score["sha256"]
            for method in methods
            for seed, score in method.scores.items()
        },
        "metrics": [
            {"title": METRICS[key].title, "id": METRICS[key].id, "definition": METRICS[key].definition}
            for key in metrics
            if key in METRICS
        ],
        "input view": spec.data.input,
        "baselines": {name: BASELINE_TEXTS[name] for name in spec.baselines},
    }
