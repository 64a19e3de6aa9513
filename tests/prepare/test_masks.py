"""Cleaning of masks and of edge colours."""

import numpy as np
import pytest
from scenes_to_prepare import ellipse

from threestudio_4d.errors import UserError
from threestudio_4d.prepare.edges import foreground_colors
from threestudio_4d.prepare.masks import check_masks, fill_pinholes, keep_largest


def boxes(*places):
    """Alpha [40, 60] with solid squares at (top, left, side)."""
    alpha = np.zeros((40, 60), np.float32)
    for top, left, side in places:
        alpha[top : top + side, left : left + side] = 1
    return alpha


def test_a_passer_by_goes_and_a_falling_part_stays():
    body, speck = (5, 5, 12), (2, 55, 2)
    frames = [
        boxes(body, speck),
        boxes(body, (17, 8, 4)),  # a part at the body's lower edge
        boxes(body, (20, 8, 4), speck),  # it comes off and still overlaps where it was
        boxes(body, (23, 8, 4)),
    ]
    cleaned, removed = keep_largest(frames)
    assert removed == 2
    assert all(frame[:5, 50:].max() == 0 for frame in cleaned)
    assert cleaned[3][23:27, 8:12].min() == 1
    np.testing.assert_array_equal(cleaned[1], frames[1])


def test_an_object_that_jumps_is_kept_in_every_frame():
    frames = [boxes((5, 5, 10)), boxes((20, 40, 9), (0, 0, 2)), boxes((5, 5, 10))]
    cleaned, removed = keep_largest(frames)
    assert removed == 1 and cleaned[1][20:29, 40:49].min() == 1 and cleaned[1][0, 0] == 0


def test_soft_rims_stay_and_empty_frames_are_no_trouble():
    soft = ellipse(40)
    cleaned, removed = keep_largest([soft, np.zeros_like(soft), soft])
    assert removed == 0
    np.testing.assert_array_equal(cleaned[0], soft)
    assert cleaned[1].max() == 0 and keep_largest([np.zeros((4, 4), np.float32)])[1] == 0


def test_pinholes_are_filled_and_real_holes_and_notches_are_not():
    alpha = np.zeros((200, 200), np.float32)
    alpha[20:180, 20:200] = 1
    alpha[50, 50] = 0.1  # a pinhole
    alpha[100:130, 100:130] = 0  # a handle
    alpha[60, 199] = 0  # a notch at the border
    filled, count = fill_pinholes(alpha)
    assert count == 1 and filled[50, 50] == 1
    assert filled[100:130, 100:130].max() == 0 and filled[60, 199] == 0 and filled[19].max() == 0


def test_frames_with_nothing_or_everything_are_named():
    names = ["a.png", "b.png", "c.png"]
    object_, nothing, everything = boxes((5, 5, 9)), np.full((40, 60), 0.3), np.ones((40, 60))
    check_masks([object_] * 3, names, "clip", "u2net")
    with pytest.raises(UserError, match=r"found nothing in 2 of 3 frames: a.png, c.png\. Leave them out"):
        check_masks([nothing, object_, nothing], names, "clip", "u2net")
    with pytest.raises(UserError, match=r"the whole picture for the object in 1 of 3 frames: b.png"):
        check_masks([object_, everything, object_], names, "clip", "u2net")


def test_edge_colours_lose_the_background():
    alpha = ellipse(48, radius=20)
    alpha = np.where(alpha < 1, alpha**0.5 * 0.9, 1).astype(np.float32)
    front, back = np.array([200.0, 40.0, 30.0]), np.array([30.0, 220.0, 60.0])
    picture = np.round(alpha[..., None] * front + (1 - alpha[..., None]) * back).astype(np.uint8)
    cleaned = foreground_colors(picture, alpha)
    rim = (alpha > 0.1) & (alpha < 1)
    before = np.abs(picture[rim] - front).mean()
    after = np.abs(cleaned[rim] - front).mean()
    assert rim.sum() > 50 and before > 30 and after < 0.2 * before
    np.testing.assert_array_equal(cleaned[alpha == 1], picture[alpha == 1])
