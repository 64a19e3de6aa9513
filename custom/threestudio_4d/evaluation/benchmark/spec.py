"""What a benchmark is: configs, objects and seeds, read from YAML or the command line, checked, expanded into runs."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ...errors import UserError
from ...paths import expand, project_root
from ..protocols import find_metrics, find_protocol
from .runs import Job

#: keys of a launch that the runner sets itself, and where to say what is wanted
OWN_KEYS = {
    "exp_root_dir": "--out", "name": "configs[].name", "tag": "data.objects", "use_timestamp": "none",
    "timestamp": "none", "seed": "seeds", "resume": "the same command again",
}  # fmt: skip
BASELINES = ("copy", "mirror")


@dataclass
class ConfigSpec:
    """One config to train: ``path`` of its YAML file, ``name`` in the report, overrides of its own."""

    name: str
    path: Path
    overrides: list[str] = field(default_factory=list)


@dataclass
class DataSpec:
    """Clips with ground truth, ``root/<object>/<view>/<frame>.png``.

    Attributes:
        root: folder of the objects.
        objects: names of folders in it; all that have the input view if none are named.
        input: the view that a method is given.
        key: the config key that takes its path.
    """

    root: Path
    objects: list[str] = field(default_factory=list)
    input: str = "ref"
    key: str = "data.image_seq_path"

    def folder(self, name: str) -> Path:
        return self.root / name


@dataclass
class ResultSpec:
    """Results made elsewhere, to compare with: ``folder/<object>/<view>/<frame>.png``."""

    name: str
    folder: Path


@dataclass
class EvaluationSpec:
    """How results are compared with the truth: arguments of ``evaluate_folders``; null is its default.

    Attributes:
        protocol: its name.
        metrics, views: instead of the protocol's.
        lpips: folder of LPIPS weights.
        clip: folder or hub id of a CLIP model.
        fvd_network: file of an I3D network.
    """

    protocol: str = "bench4d"
    metrics: list[str] | None = None
    views: list[str] | None = None
    lpips: str | None = None
    clip: str | None = None
    fvd_network: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for ``evaluate_folders``."""
        return dict(vars(self))


@dataclass
class Spec:
    """A benchmark: every config on every object with every seed.

    Attributes:
        baselines: trivial methods to compare with, ``copy`` (the input clip in place of every view) and ``mirror`` (the
            same, mirrored for views from behind).
        overrides: ``key=value`` for every run.
    """

    name: str
    data: DataSpec
    configs: list[ConfigSpec]
    seeds: list[int] = field(default_factory=lambda: [0])
    overrides: list[str] = field(default_factory=list)
    results: list[ResultSpec] = field(default_factory=list)
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    def as_text(self) -> dict[str, Any]:
        """Plain values, for JSON and the report; paths as they were found."""
        return json.loads(json.dumps(self, default=lambda v: str(v) if isinstance(v, Path) else vars(v)))


@dataclass
class Changes:
    """What a command line says in place of the benchmark file; None keeps what that says."""

    data: str | None = None
    objects: list[str] | None = None
    seeds: list[int] | None = None
    protocol: str | None = None
    metrics: list[str] | None = None
    overrides: list[str] = field(default_factory=list)

    def apply(self, content: dict[str, Any]) -> dict[str, Any]:
        """``content`` of a benchmark file with the changes; overrides are added to its own."""
        content = dict(content)
        for section, short, values in (
            ("data", "root", {"root": self.data, "objects": self.objects}),
            ("evaluation", "protocol", {"protocol": self.protocol, "metrics": self.metrics}),
        ):
            old = content.get(section) or {}
            old = {short: old} if isinstance(old, str) else old
            if isinstance(old, Mapping):
                if values.get("root") is not None:
                    old = {key: value for key, value in old.items() if key != "objects"}
                content[section] = {**old, **{key: value for key, value in values.items() if value is not None}}
        if self.seeds is not None:
            content["seeds"] = list(self.seeds)
        return content


def read_spec(path: str | Path, changes: Changes | None = None) -> Spec:
    """Read and check a YAML file.

    Paths in it are looked for in the working directory, then beside the file, then in the project.

    Raises:
        UserError: no such file, no YAML, an unknown key, a value of the wrong kind, a path that is not there.
    """
    path, changes = Path(path), changes or Changes()
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        raise UserError(f"no benchmark file {path}" + (f"; did you mean {path.parent / near[0]}?" if near else ""))
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    content = changes.apply(content) if isinstance(content, dict) else content
    spec = _Reader(str(path), [Path.cwd(), path.resolve().parent, project_root()]).spec(content, path.stem)
    spec.overrides += check_overrides(changes.overrides, "on the command line")
    return spec


def make_spec(configs: Sequence[str], changes: Changes) -> Spec:
    """A benchmark without a file; configs are named by their files.

    Raises:
        UserError: as for :func:`read_spec`.
    """
    stems = [Path(config).stem for config in configs]
    content: dict[str, Any] = {
        "configs": [{"name": stem, "path": config} for stem, config in zip(stems, configs, strict=True)],
        "overrides": changes.overrides,
    }
    reader = _Reader("command line", [Path.cwd(), project_root()])
    return reader.spec(changes.apply(content), f"{'-'.join(stems)}-{Path(changes.data or '').resolve().name}")


def make_jobs(spec: Spec, out: Path, launcher: Path, threads: int | None = None, commit: str = "") -> list[Job]:
    """All runs, config by config; each has its own folder ``out/runs/<config>/<object>-s<seed>``."""
    jobs = []
    for config in spec.configs:
        content = hashlib.sha256(config.path.read_bytes()).hexdigest()
        for name in spec.data.objects:
            for seed in spec.seeds:
                group, tag = slug(config.name), f"{slug(name)}-s{seed}"
                clip = spec.data.folder(name) / spec.data.input
                settings = {
                    "config": config.path.name, "config sha256": content, "data": str(clip), "seed": seed,
                    "overrides": [*spec.overrides, *config.overrides],
                }  # fmt: skip
                command = [sys.executable, str(launcher), "--config", str(config.path), "--train"]
                command += [f"exp_root_dir={out / 'runs'}", f"name={group}", f"tag={tag}"]
                command += ["use_timestamp=false", f"seed={seed}", f"{spec.data.key}={clip}"]
                command += settings["overrides"]
                folder = str(out / "runs" / group / tag)
                jobs.append(
                    Job(
                        id=f"{group}/{tag}", config=config.name, object=name, seed=seed, folder=folder,
                        command=tuple(command), cwd=str(Path.cwd()), settings=settings, threads=threads, commit=commit,
                    )
                )  # fmt: skip
    return jobs


def slug(name: str) -> str:
    """A name as part of a path: spaces and anything unusual become ``_``."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name).strip(".") or "_"


def check_overrides(values: Any, where: str) -> list[str]:
    """A list of ``key=value``, without the keys that the runner sets.

    Raises:
        UserError: another form, or one of those keys.
    """
    values = list(values) if isinstance(values, (list, tuple)) else values
    if not isinstance(values, list) or not all(isinstance(value, str) and "=" in value for value in values):
        raise UserError(f"{where} must be a list of key=value, as in ['trainer.max_steps=100']; it is {values!r}")
    for value in values:
        key = value.split("=")[0].strip()
        if key in OWN_KEYS:
            raise UserError(f"{where}: {key} is set for every run by the runner; use {OWN_KEYS[key]}")
    return values


class _Reader:
    """Turns plain values into a :class:`Spec`; messages name the key as it stands in the file."""

    def __init__(self, source: str, places: list[Path]) -> None:
        self.source, self.places = source, places

    def spec(self, content: Any, name: str) -> Spec:
        given = self.mapping(content, "", Spec, ("configs", "data"))
        configs = [self.config(value, f"configs[{i}]") for i, value in enumerate(self.items(given, "configs"))]
        if not configs:
            self.fail("'configs' is empty: name at least one config to train")
        results = [self.result(value, f"results[{i}]") for i, value in enumerate(self.items(given, "results"))]
        seeds = self.items(given, "seeds") or [0]
        if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
            self.fail(f"'seeds' must be a list of whole numbers, as in [0, 1, 2]; it is {seeds!r}")
        baselines = self.items(given, "baselines") if "baselines" in given else list(BASELINES)
        for value in baselines:
            if value not in BASELINES:
                self.fail(f"'baselines' has {value!r}; valid are: {', '.join(BASELINES)}")
        data = self.data(given["data"])
        spec = Spec(
            name=slug(self.text(given.get("name", name), "name")),
            data=data, configs=configs, seeds=list(dict.fromkeys(seeds)), results=results,
            overrides=self.overrides(given, ""), baselines=baselines,
            evaluation=self.evaluation(given.get("evaluation") or {}),
        )  # fmt: skip
        self.unlike([c.name for c in configs] + [r.name for r in results] + baselines, "names of configs and results")
        self.unlike(data.objects, "objects")
        return spec

    def config(self, value: Any, where: str) -> ConfigSpec:
        value = {"path": value} if isinstance(value, str) else value
        given = self.mapping(value, where, ConfigSpec, ("path",))
        path = self.find(given["path"], f"{where}.path")
        if not path.is_file():
            self.fail(f"'{where}.path' must be a YAML file; {path} is a folder")
        name = self.text(given.get("name", path.stem), f"{where}.name")
        return ConfigSpec(name, path, self.overrides(given, f"{where}."))

    def result(self, value: Any, where: str) -> ResultSpec:
        given = self.mapping(value, where, ResultSpec, ("name", "folder"))
        return ResultSpec(self.text(given["name"], f"{where}.name"), self.find(given["folder"], f"{where}.folder"))

    def data(self, value: Any) -> DataSpec:
        value = {"root": value} if isinstance(value, str) else value
        given = self.mapping(value, "data", DataSpec, ("root",))
        root = self.find(given["root"], "data.root")
        view = self.text(given.get("input", "ref"), "data.input")
        there = sorted(path.name for path in root.iterdir() if (path / view).is_dir()) if root.is_dir() else []
        if not there:
            self.fail(f"'data.root': {root} has no object with a view '{view}' (looked for {root}/<object>/{view}/)")
        objects = self.items(given, "data.objects") or there
        for name in objects:
            if name not in there:
                near = difflib.get_close_matches(str(name), there, n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                self.fail(f"'data.objects': {root} has no object '{name}' with a view '{view}'.{hint} "
                          f"Objects there: {', '.join(there)}")  # fmt: skip
        key = self.text(given.get("key", "data.image_seq_path"), "data.key")
        return DataSpec(root, objects, view, key)

    def evaluation(self, value: Any) -> EvaluationSpec:
        value = {"protocol": value} if isinstance(value, str) else value
        given = self.mapping(value, "evaluation", EvaluationSpec, ())
        found = EvaluationSpec()
        for key, chosen in given.items():
            if chosen is None:
                continue
            where = f"evaluation.{key}"
            if key in ("metrics", "views"):
                chosen = [self.text(name, where) for name in self.items(given, where)]
            elif key in ("lpips", "fvd_network"):
                chosen = str(self.find(chosen, where))
            setattr(found, key, chosen if isinstance(chosen, list) else self.text(chosen, where))
        try:
            find_protocol(found.protocol)
            find_metrics(found.metrics or ())
        except UserError as error:
            self.fail(f"'evaluation': {error}")
        return found

    def mapping(self, value: Any, where: str, kind: type, needed: tuple[str, ...]) -> dict[str, Any]:
        """The value as a mapping that has the needed keys and no key that ``kind`` has not."""
        what = f"'{where}'" if where else "the file"
        valid = [f.name for f in fields(kind)]
        if not isinstance(value, Mapping):
            self.fail(f"{what} must be a mapping with the keys {', '.join(valid)}; it is {value!r}")
        prefix = f"{where}." if where else ""
        for key in value:
            if key not in valid:
                near = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.5)
                hint = f" Did you mean '{prefix}{near[0]}'?" if near else ""
                self.fail(f"unknown key '{prefix}{key}'.{hint} Valid keys: {', '.join(valid)}")
        for key in needed:
            if value.get(key) is None:
                self.fail(f"the key '{prefix}{key}' is missing. Valid keys: {', '.join(valid)}")
        return dict(value)

    def items(self, given: dict[str, Any], where: str) -> list[Any]:
        value = given.get(where.rsplit(".", 1)[-1])
        if value is not None and not isinstance(value, list):
            self.fail(f"'{where}' must be a list; it is {value!r}")
        return value or []

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            self.fail(f"'{where}' must be text; it is {value!r}")
        return value

    def overrides(self, given: dict[str, Any], prefix: str) -> list[str]:
        values = given.get("overrides")
        return check_overrides([] if values is None else values, f"{self.source}: '{prefix}overrides'")

    def find(self, value: Any, where: str) -> Path:
        path = expand(self.text(value, where))
        for place in self.places:
            if (place / path).exists():
                return (place / path).resolve()
        looked = ", ".join(dict.fromkeys(str(place) for place in self.places))
        self.fail(f"'{where}': there is no {path}" + ("" if path.is_absolute() else f" (looked in {looked})"))

    def unlike(self, names: list[str], what: str) -> None:
        """Refuse names that are equal, or would share a folder."""
        seen: dict[str, str] = {}
        for name in names:
            if slug(name) in seen:
                self.fail(f"{what} must differ, also as folders: '{seen[slug(name)]}' and '{name}'")
            seen[slug(name)] = name

    def fail(self, message: str) -> Any:
        raise UserError(f"{self.source}: {message}")
