"""What an evaluation found, with everything that is needed to compare it with another one."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from typing import Any

from .hashes import library_versions
from .protocols import METRICS

FORMAT = "threestudio4d-evaluation/1"


@dataclass
class Result:
    """Numbers and their provenance.

    Attributes:
        protocol, version: under which they were taken.
        metrics: names of what was computed, in the order of the table.
        views: views compared.
        frames: ``<object>/<view>`` -> number of frames.
        size, background, resize: of the frames that were compared (FVD and CLIP resize further on their own).
        values: object -> view -> metric -> value.
        overall: metrics that describe the whole set of clips.
        skipped: metric -> why it is missing.
        networks: network -> file or name, SHA-256 of its weights.
        digests: SHA-256 over names and contents of the frames compared: ``predicted``, ``truth``, and the input's,
            ``reference``, if a metric looks at it.
        versions: of Python and libraries.
    """

    protocol: str
    version: int
    metrics: list[str]
    views: list[str]
    frames: dict[str, int]
    size: int
    background: str
    resize: str
    values: dict[str, dict[str, dict[str, float]]]
    overall: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=library_versions)

    @property
    def objects(self) -> dict[str, dict[str, float]]:
        """Object -> metric -> mean over its views."""
        return {name: _mean(views.values()) for name, views in self.values.items()}

    @property
    def per_view(self) -> dict[str, dict[str, float]]:
        """View -> metric -> mean over objects."""
        return {view: _mean([of[view] for of in self.values.values() if view in of]) for view in self.views}

    @property
    def mean(self) -> dict[str, float]:
        """Metric -> mean over objects (each the mean over its views), and the metrics of the whole set."""
        return _mean(self.objects.values()) | self.overall

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, ready for JSON."""
        return {
            "format": FORMAT,
            "protocol": self.protocol,
            "protocol_version": self.version,
            "metrics": {name: {"id": METRICS[name].id, "better": METRICS[name].better} for name in self.metrics},
            "size": self.size,
            "background": self.background,
            "resize": self.resize,
            "views": self.views,
            "frames": self.frames,
            "mean": self.mean,
            "objects": self.objects,
            "per_view": self.per_view,
            "values": self.values,
            "skipped": self.skipped,
            "networks": self.networks,
            "sha256": self.digests,
            "versions": self.versions,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text; it never holds NaN or infinity."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def _mean(rows: Any) -> dict[str, float]:
    """Mean of each key that every row has."""
    rows = list(rows)
    if not rows:
        return {}
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0] if all(key in row for row in rows)}
