"""The fixed cameras and times of validation and test, as lists of pictures to render."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

TEST_SPLITS = ("orbit", "fixed", "eval")


@dataclass(frozen=True)
class ViewTimeSample:
    """One picture to render: ``split`` and ``frame`` name its file; angles in degrees, ``time`` in [0, 1]."""

    split: str
    frame: int
    time: float
    azimuth: float
    elevation: float


def views_for_validation(cfg: Any, times: Tensor) -> list[ViewTimeSample]:
    """``n_val_views`` azimuths around the object, each at ``n_val_times`` frames spread over the clip."""
    n = len(times)
    span = n / cfg.n_val_times if cfg.loop else (n - 1) / max(cfg.n_val_times - 1, 1)
    frames = sorted({min(round(i * span), n - 1) for i in range(cfg.n_val_times)})
    out = []
    for k in range(cfg.n_val_views):
        turn = 360.0 * k / cfg.n_val_views
        split, azimuth = f"val-{turn:g}", cfg.default_azimuth_deg + turn
        out += [ViewTimeSample(split, i, float(times[i]), azimuth, cfg.default_elevation_deg) for i in frames]
    return out


def views_for_test(cfg: Any, times: Tensor) -> list[ViewTimeSample]:
    """The pictures of a test run, in the splits that ``data.test_splits`` names.

    ``orbit``: one turn in ``n_test_views`` pictures while the clip plays ``orbit_loops`` times. ``fixed-<azimuth>``: a
    still camera over all frames. ``eval/<view>``: the views that are compared with ground truth, ``ref`` (the camera
    of the clip) and ``az<azimuth>``, at the elevation of the clip. Azimuths count from the camera of the clip.
    """
    out = []
    if "orbit" in cfg.test_splits:
        n = cfg.n_test_views
        for k in range(n):
            played = cfg.orbit_loops * k / (n if cfg.loop else max(n - 1, 1))
            time = 1.0 if played == cfg.orbit_loops and not cfg.loop else played % 1.0
            azimuth = cfg.default_azimuth_deg + 360.0 * k / n
            out.append(ViewTimeSample("orbit", k, time, azimuth, cfg.orbit_elevation_deg))
    stills = [(f"fixed-{a:g}", a) for a in cfg.fixed_azimuths] if "fixed" in cfg.test_splits else []
    if "eval" in cfg.test_splits:
        stills += [("eval/ref", 0.0)] + [(f"eval/az{a:g}", a) for a in cfg.eval_azimuths]
    for split, turn in stills:
        azimuth = cfg.default_azimuth_deg + turn
        out += [ViewTimeSample(split, i, float(t), azimuth, cfg.default_elevation_deg) for i, t in enumerate(times)]
    return out
