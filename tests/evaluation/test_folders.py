"""Pairing of predicted and true frames: what fits, and every way not to fit."""

import shutil

import numpy as np
import pytest
from frame_folders import VIEWS, picture, write_object, write_view
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.folders import digest, list_frames, pair_folders
from threestudio_4d.evaluation.novel_views import in_order


@pytest.fixture
def sides(tmp_path):
    for side in ("pred", "gt"):
        for name in ("deer", "frog"):
            write_object(tmp_path / side / name)
    write_view(tmp_path / "gt" / "deer" / "ref", [picture(9)] * 3)
    return tmp_path / "pred", tmp_path / "gt"


def test_pairs_by_name_and_number(sides):
    pairs = pair_folders(*sides, views=["az15", "az-75"])
    assert [(pair.object, pair.view, len(pair)) for pair in pairs] == [
        ("deer", "az15", 3),
        ("deer", "az-75", 3),
        ("frog", "az15", 3),
        ("frog", "az-75", 3),
    ]
    assert [path.relative_to(sides[0]).as_posix() for path in pairs[0].predicted] == [
        f"deer/az15/{index}.png" for index in range(3)
    ]
    assert len(pairs[0].reference) == 3 and pairs[2].reference == ()
    assert [pair.view for pair in pair_folders(*sides, objects=["frog"])] == list(VIEWS)


def test_frames_are_in_order_of_number(tmp_path):
    write_view(tmp_path / "view", [picture(0)] * 12)
    assert [path.name for path in list_frames(tmp_path / "view")][-3:] == ["9.png", "10.png", "11.png"]


def test_views_are_in_order_of_number(tmp_path):
    views = [f"eval_{index}" for index in range(11)]
    for side in ("pred", "gt"):
        write_object(tmp_path / side / "deer", views=views)
    assert [pair.view for pair in pair_folders(tmp_path / "pred", tmp_path / "gt")] == views


def test_views_are_in_order_of_azimuth_where_their_names_tell():
    assert in_order(["az15", "az-75", "az195", "az105"]) == ["az-75", "az15", "az105", "az195"]
    assert in_order(["view_10", "az-75", "view_9"]) == ["az-75", "view_9", "view_10"]


def test_layouts(sides, tmp_path):
    one = pair_folders(sides[0] / "deer", sides[1] / "deer", views=["az15"])
    assert one[0].object == "deer"
    trials = tmp_path / "outputs"
    for name in ("deer", "frog"):
        shutil.copytree(sides[0] / name, trials / name / "save" / "eval")
    assert len(pair_folders(trials, sides[1])) == 8
    assert len(pair_folders(trials / "deer", sides[1] / "deer")) == 4
    assert pair_folders(trials / "deer" / "save" / "eval", sides[1], objects=["deer"])[0].object == "deer"


def test_digests_see_names_and_contents_and_not_places(sides, tmp_path):
    pairs = pair_folders(*sides)
    assert digest(pairs, "predicted") == digest(pairs, "truth")
    moved = tmp_path / "elsewhere"
    shutil.move(sides[0], moved)
    pairs = pair_folders(moved, sides[1])
    before = digest(pairs, "predicted")
    assert before == digest(pairs, "truth")
    Image.fromarray(picture(1)).save(moved / "deer" / "az15" / "0.png")
    assert digest(pairs, "predicted") != before


def _remove(*parts):
    return lambda pred, gt: shutil.rmtree(pred.joinpath(*parts))


def _unlink(side, *parts):
    return lambda pred, gt: {"pred": pred, "gt": gt}[side].joinpath(*parts).unlink()


def _add(side, *parts):
    return lambda pred, gt: Image.fromarray(picture(0)).save({"pred": pred, "gt": gt}[side].joinpath(*parts))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (_remove("frog"), {}, r"pred lacks frog \(it has deer\); to compare fewer objects name them with --objects"),
        (lambda p, g: shutil.rmtree(g / "frog"), {}, "pred has frog, for which .*gt has no ground truth"),
        (_remove("deer", "az15"), {}, r"deer: the prediction .*deer lacks view az15 \(it has az-75, az105, az195\)"),
        (lambda p, g: shutil.rmtree(g / "deer" / "az15"), {}, "has views az15 that the ground truth .* lacks"),
        (lambda p, g: None, {"views": ["az0"]}, "the prediction .* lacks view az0"),
        (lambda p, g: None, {"objects": ["cat"]}, "gt has no object cat; it has deer, frog"),
        (_unlink("pred", "deer", "az15", "1.png"), {}, "az15 has frames up to 2 but lacks frame 1"),
        (_unlink("pred", "deer", "az15", "0.png"), {}, "lacks frame 0"),
        (_unlink("pred", "deer", "az15", "2.png"), {}, "has 2 frames, its ground truth .* has 3"),
        (_unlink("gt", "deer", "az15", "2.png"), {}, "has 3 frames, its ground truth .* has 2"),
        (_add("pred", "deer", "az15", "02.png"), {}, "are the same frame number"),
        (_add("pred", "deer", "az15", "99999999999.png"), {}, "lacks frame 3, 4, 5, 6, 7, ..."),
        (_add("pred", "deer", "az15", "sheet.png"), {}, "sheet.png is not numbered"),
        (lambda p, g: shutil.rmtree(p), {}, "there is no folder .*pred"),
    ],
)
def test_refuses(sides, change, arguments, message):
    change(*sides)
    with pytest.raises(UserError, match=message):
        pair_folders(*sides, **arguments)


def test_refuses_to_guess_which_object(sides, tmp_path):
    with pytest.raises(UserError, match="is one object's folder of views, .* has 2 objects .*--objects NAME"):
        pair_folders(sides[0] / "deer", sides[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no frames: expected <view>/<frame>.png"):
        pair_folders(tmp_path / "empty", sides[1])
    assert np.asarray(Image.open(sides[0] / "deer" / "az15" / "0.png")).shape == (16, 16, 4)
