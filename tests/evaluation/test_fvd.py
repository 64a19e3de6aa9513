"""The clips behind each FVD, and their distances with a toy extractor."""

import numpy as np
import pytest
import torch
from frame_folders import picture, write_view

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.folders import pair_folders
from threestudio_4d.evaluation.fvd import (
    VideoScores,
    along_frames,
    along_views,
    diagonals,
    serpentine,
    windows,
)
from threestudio_4d.evaluation.novel_views import by_azimuth
from threestudio_4d.evaluation.protocols import PROTOCOLS
from threestudio_4d.evaluation.video_features import VideoFeatures

NAMES = ("fvd_consistent4d", "fvd_styleganv", "fvd_f", "fvd_v", "fvd_diag", "fv4d")


def test_paths_through_the_matrix():
    """Two views, three frames; cells are (view, frame)."""
    assert along_frames(2, 3) == [[(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (1, 2)]]
    assert along_views(2, 3) == [[(0, 0), (1, 0)], [(0, 1), (1, 1)], [(0, 2), (1, 2)]]
    assert diagonals(2, 3) == [[(0, 0), (1, 1), (0, 2)], [(1, 0), (0, 1), (1, 2)]]
    assert serpentine(3, 2) == [[(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]]
    clips = windows(2, 33)
    assert [(clip[0], clip[-1]) for clip in clips] == [
        ((0, 0), (0, 15)),
        ((0, 16), (0, 31)),
        ((1, 0), (1, 15)),
        ((1, 16), (1, 31)),
    ]
    assert windows(4, 15) == []


def test_order_of_views():
    assert by_azimuth(["az15", "az-75", "az195", "az105"]) == [1, 0, 3, 2]
    assert by_azimuth(["eval_1", "eval_0"]) == [0, 1]


def _toy(minimum_frames=1):
    """Features of a clip: mean of its red channel in each image's first and last, and its length."""

    def network(clips):
        grey = clips[:, 0].mean((2, 3))
        return torch.stack([grey[:, 0], grey[:, -1], torch.full_like(grey[:, 0], grey.shape[1])], 1)

    return VideoFeatures(network, "toy", "0" * 64, "toy", minimum_frames)


@pytest.fixture
def pairs(tmp_path):
    """Grey values in [-1, 1] after preparation: prediction v / 5 + t / 10 - 1, truth 0.1 more in view 1."""
    for side, extra in (("pred", 0), ("gt", 1)):
        for number, view in enumerate(("az0", "az90")):
            values = [round(127.5 * (number / 5 + t / 10 + 0.1 * extra * number)) for t in range(3)]
            write_view(tmp_path / side / "deer" / view, [picture(value, hole=False) for value in values])
    return pair_folders(tmp_path / "pred", tmp_path / "gt")


def _scores(pairs, names=NAMES, **kwargs):
    scores = VideoScores(_toy(**kwargs), PROTOCOLS["bench4d"], names)
    scores.add(pairs)
    return scores


def test_distances_by_hand(pairs):
    scores = _scores(pairs)
    # View 0 is right; in view 1 all values are 0.1 too low: squared distance 2 x 0.01 of (first, last), and the
    # standard deviations of (first, last, length) differ.
    std = [np.std([a, a + 0.2, 3], ddof=1) for a in (-0.8, -0.7)]
    assert scores.pairs["deer", "az0"] == pytest.approx(0, abs=1e-9)
    assert scores.pairs["deer", "az90"] == pytest.approx(0.02 + (std[0] - std[1]) ** 2, abs=2e-3)
    found = scores.distances()
    # FVD-F, two clips a side. First and last image are 0.2 v - 1 and 0.2 v - 0.8, in the truth 0.3 v ...: means
    # differ by 0.05 twice; both variances are 2 x 0.02 and 2 x 0.045, in one and the same direction.
    assert found["fvd_f"] == pytest.approx(2 * 0.05**2 + (np.sqrt(0.04) - np.sqrt(0.09)) ** 2, abs=2e-3)
    # FVD-V, three clips a side: only the last image (view 1) differs, by 0.1 everywhere.
    assert found["fvd_v"] == pytest.approx(0.01, abs=2e-3)
    assert set(found) == {"fvd_f", "fvd_v", "fvd_diag"} and scores.clips() == {
        "fvd_f": 2,
        "fvd_v": 3,
        "fvd_diag": 2,
    }
    assert scores.skipped == {
        "fvd_styleganv": "needs 16 frames or more, there are 3",
        "fv4d": "a Frechet distance takes two clips or more, there is 1",
    }


def test_the_network_of_a_metric(pairs):
    toy = _toy()
    toy.consistent4d = VideoFeatures(lambda clips: clips[:, :, 0, 0, 0], "own", "", "toy", 1)
    scores = VideoScores(toy, PROTOCOLS["bench4d"], ("fvd_consistent4d",))
    scores.add(pairs)
    assert scores.pairs["deer", "az90"] == pytest.approx(3 * (12 / 127.5) ** 2)  # three channels, 12 levels too low


def test_covariance_of_styleganv(tmp_path):
    """Over N clips, not N - 1: the variances of two clips a side, 2 x 0.01 and 2 x 0.04, in one direction."""
    for side, step in (("pred", 1), ("gt", 2)):
        for number in range(2):
            frames = [picture(round(127.5 * (1 + 0.2 * step * (number - 0.5))), hole=False)] * 16
            write_view(tmp_path / side / "deer" / f"az{number}", frames)
    scores = _scores(pair_folders(tmp_path / "pred", tmp_path / "gt"), ("fvd_styleganv", "fvd_f"))
    found = scores.distances()
    assert found["fvd_styleganv"] == pytest.approx((np.sqrt(0.02) - np.sqrt(0.08)) ** 2, abs=1e-3)
    assert found["fvd_f"] == pytest.approx(2 * found["fvd_styleganv"], rel=1e-6)


def test_several_objects_form_one_set(pairs):
    scores = VideoScores(_toy(), PROTOCOLS["bench4d"], ("fv4d",))
    for _ in range(3):
        scores.add(pairs)
    # The one path ends at view 1, frame 0: its last image is 0.1 too low, and all three clips are equal.
    assert scores.distances()["fv4d"] == pytest.approx(0.01, abs=2e-3)
    assert scores.clips() == {"fv4d": 3}


def test_clips_that_are_too_short_for_the_network(pairs):
    scores = _scores(pairs, ("fvd_consistent4d", "fvd_v", "fvd_f"), minimum_frames=3)
    assert scores.skipped == {"fvd_v": "its clips have 2 images here, and the network needs 3"}
    assert set(scores.distances()) == {"fvd_f"} and len(scores.pairs) == 2


def test_views_of_unequal_length(pairs, tmp_path):
    for side in ("pred", "gt"):
        (tmp_path / side / "deer" / "az0" / "2.png").unlink()
    uneven = pair_folders(tmp_path / "pred", tmp_path / "gt")
    with pytest.raises(UserError, match=r"deer: views have \[2, 3\] frames; fvd_f need the same"):
        _scores(uneven, ("fvd_f",))
