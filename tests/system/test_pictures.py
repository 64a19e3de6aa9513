"""Evaluation frames and other pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.results import pictures


def test_straight_alpha_undoes_the_white_composite():
    rgb = np.array([[[0.2, 0.4, 0.6], [0.9, 0.1, 0.5]], [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    alpha = np.array([[[1.0], [0.5]], [[0.0], [0.25]]])
    rgba = pictures.straight_alpha(rgb * alpha + (1 - alpha), alpha)
    assert rgba.dtype == np.uint8 and rgba[..., 3].tolist() == [[255, 128], [0, 64]]
    assert np.abs(rgba[..., :3] / 255 - rgb)[alpha[..., 0] > 0].max() < 1 / 255
    assert rgba[1, 0].tolist() == [0, 0, 0, 0]


def test_straight_alpha_resizes_premultiplied_colour():
    alpha = np.zeros((16, 16, 1))
    alpha[:, :8] = 1
    comp = np.where(alpha > 0, np.array([0.8, 0.2, 0.1]), 1.0)
    rgba = pictures.straight_alpha(comp, alpha, 32)
    assert rgba.shape == (32, 32, 4)
    edge = (rgba[..., 3] > 40) & (rgba[..., 3] < 215)
    assert edge.any()
    assert np.abs(rgba[edge][:, :3].astype(int) - [204, 51, 26]).max() <= 6


def test_write_png_keeps_channels_and_leaves_no_partial_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    pictures.write_png(str(tmp_path / "a.png"), image)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.mode == "RGBA"
        assert np.array_equal(np.array(opened), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_depth_picture_of_empty_space_is_white():
    assert pictures.depth_picture(np.zeros((3, 3, 1)), np.zeros((3, 3, 1))).min() == 1


@pytest.mark.parametrize("key", ["comp_rgb", "opacity", "depth"])
def test_render_that_is_not_finite_is_refused(key):
    rendered = {name: torch.zeros(2, 4, 4, size) for name, size in (("comp_rgb", 3), ("opacity", 1), ("depth", 1))}
    rendered[key][1, 0, 0, 0] = float("nan")
    pictures.Picture(rendered, 0)
    with pytest.raises(UserError, match=rf"1 of 16 pixels of the render \({key}\) are NaN or infinite"):
        pictures.Picture(rendered, 1)
