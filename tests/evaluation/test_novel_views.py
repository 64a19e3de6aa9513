"""Scores of novel views against values worked out by hand, and folders that do not fit."""

import numpy as np
import pytest
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.novel_views import flicker, psnr, read_clip, score_views, silhouette_iou


def grey(value, alpha=1.0, frames=2, size=4):
    clip = np.full((frames, size, size, 4), value, np.float32)
    clip[..., 3] = alpha
    return clip


def test_psnr_of_a_constant_error():
    assert psnr(grey(0.6), grey(0.5)) == pytest.approx(20.0, abs=1e-3)


def test_iou_of_half_a_silhouette():
    half = grey(0.5)
    half[:, :, 2:, 3] = 0.4
    assert silhouette_iou(half, grey(0.5)) == pytest.approx(0.5)
    assert silhouette_iou(grey(0.5, alpha=0.0), grey(0.5, alpha=0.0)) == 0.0


def test_flicker_counts_changes_that_the_truth_does_not_make():
    still, blinking = grey(0.5, frames=3), grey(0.5, frames=3)
    blinking[1, ..., :3] = 0.6
    assert flicker(still + 0.1, still) == pytest.approx(0.0, abs=1e-4)
    assert flicker(blinking, still) == pytest.approx(25.5, abs=1e-3)
    assert flicker(blinking, blinking) == 0.0


def write(folder, names, image):
    folder.mkdir()
    for name in names:
        Image.fromarray(image).save(folder / name)


def test_colours_under_alpha_zero_do_not_show(tmp_path):
    image = np.zeros((4, 4, 4), np.uint8)
    image[..., 0] = 255
    image[:, :2, 3] = 255
    write(tmp_path / "view", ["0.png"], image)
    frame = read_clip(tmp_path / "view", 2)[0]
    np.testing.assert_allclose(frame[:, 0], [[1, 0, 0, 1]] * 2, atol=1e-6)
    np.testing.assert_allclose(frame[:, 1], [[1, 1, 1, 0]] * 2, atol=1e-6)


def test_folders_that_do_not_fit(tmp_path):
    write(tmp_path / "gap", ["0.png", "2.png"], np.zeros((4, 4, 4), np.uint8))
    write(tmp_path / "opaque", ["0.png"], np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="without a gap"):
        read_clip(tmp_path / "gap", 4)
    with pytest.raises(UserError, match="without a gap"):
        read_clip(tmp_path / "absent", 4)
    with pytest.raises(UserError, match="0.png is not an RGBA picture"):
        read_clip(tmp_path / "opaque", 4)
    with pytest.raises(UserError, match="views differ"):
        score_views({"a": grey(0)}, {"b": grey(0)})
    with pytest.raises(UserError, match="view a has shape"):
        score_views({"a": grey(0)}, {"a": grey(0, frames=3)})
