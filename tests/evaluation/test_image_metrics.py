"""SSIM and both data ranges against torchmetrics and hand-computed values; reading frames under each protocol."""

import dataclasses

import numpy as np
import pytest
import torch
from frame_folders import picture, write_view
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation.folders import list_frames
from threestudio_4d.evaluation.frames import read_views
from threestudio_4d.evaluation.image_metrics import psnr_published, ssim, ssim_published
from threestudio_4d.evaluation.novel_views import psnr, read_clip
from threestudio_4d.evaluation.protocols import PROTOCOLS

BENCH4D, CONSISTENT4D = PROTOCOLS["bench4d"], PROTOCOLS["consistent4d"]


def _clips(frames=3, size=24):
    random = np.random.default_rng(0)
    truth = random.uniform(0.2, 0.8, (frames, size, size, 4)).astype(np.float32)
    return np.clip(truth + random.normal(0, 0.1, truth.shape), 0, 1).astype(np.float32), truth


def _bchw(clip, scale=1.0):
    return torch.from_numpy(clip[..., :3] * np.float32(scale)).permute(0, 3, 1, 2)


def test_psnr_and_ssim_are_those_of_torchmetrics():
    clip, truth = _clips()
    pairs = list(zip(_bchw(clip), _bchw(truth), strict=True))
    expected = np.mean([float(peak_signal_noise_ratio(a, b, data_range=1.0)) for a, b in pairs])
    assert psnr(clip, truth) == pytest.approx(expected, abs=1e-4)
    expected = structural_similarity_index_measure(_bchw(clip), _bchw(truth), data_range=1.0)
    assert ssim(clip, truth) == pytest.approx(float(expected), abs=1e-6)


def test_published_ranges_on_0_to_255_as_the_script_has_them():
    """Only ratios of values matter, so 8-bit floats and [0, 1] agree."""
    clip, truth = _clips()
    a, b = _bchw(clip, 255), _bchw(truth, 255)
    expected = [float(structural_similarity_index_measure(x[None], y[None])) for x, y in zip(a, b, strict=True)]
    assert ssim_published(clip, truth) == pytest.approx(np.mean(expected), abs=1e-5)
    ranges = [float(y.max() - y.min()) for y in b]
    expected = [float(peak_signal_noise_ratio(x, y, data_range=r)) for x, y, r in zip(a, b, ranges, strict=True)]
    assert psnr_published(clip, truth) == pytest.approx(np.mean(expected), abs=1e-3)


def test_by_hand():
    """An error of 0.1 everywhere is 20 dB at range 1, and 20 log10(5) where the truth spans 0.5."""
    truth = np.full((1, 16, 16, 4), 0.25, np.float32)
    truth[:, :8] = 0.75
    assert psnr(truth + np.float32(0.1), truth) == pytest.approx(20, abs=1e-3)
    assert psnr_published(truth + np.float32(0.1), truth) == pytest.approx(20 * np.log10(5), abs=1e-3)
    # Constant pictures a and b: the contrast term is 1 and the other (2ab + c) / (a^2 + b^2 + c), c = 0.01^2.
    flat = np.full((2, 16, 16, 4), 0.5, np.float32)
    assert ssim(flat + np.float32(0.25), flat) == pytest.approx((0.75 + 1e-4) / (0.8125 + 1e-4), abs=1e-3)
    assert ssim_published(flat, flat) == 1
    assert psnr(flat, flat) == pytest.approx(100)


def test_bench4d_reads_as_the_training_does(tmp_path):
    write_view(tmp_path / "view", [picture(0, 64), picture(100, 64)])
    frames = read_views(list_frames(tmp_path / "view"), dataclasses.replace(BENCH4D, size=32))
    np.testing.assert_array_equal(frames, read_clip(tmp_path / "view", 32))


def test_consistent4d_reads_8_bit_pictures_and_enlarges_them_bicubic(tmp_path):
    image = picture(51, 16)
    image[:, 12:, 3] = 128
    write_view(tmp_path / "view", [image])
    paths = list_frames(tmp_path / "view")
    frames = read_views(paths, CONSISTENT4D)
    assert frames.shape == (1, 512, 512, 4)
    on_white = np.full((16, 16, 3), 51, np.uint8)
    on_white[:, :8] = 255
    on_white[:, 12:] = round(51 * 128 / 255 + 255 * 127 / 255)
    expected = np.asarray(Image.fromarray(on_white).resize((512, 512)), np.float32) / 255
    np.testing.assert_allclose(frames[0, ..., :3], expected, atol=1e-6)
    hard = read_views(paths, dataclasses.replace(CONSISTENT4D, background="white-mask", size=16))
    assert hard[0, 0, 0, 0] == 1 and hard[0, 0, 14, 0] == pytest.approx(51 / 255)


def test_frames_without_alpha_that_are_not_square_or_no_pictures(tmp_path):
    write_view(tmp_path / "rgb", [picture(51)[..., :3]])
    assert read_views(list_frames(tmp_path / "rgb"), CONSISTENT4D)[0, 0, 0].tolist() == pytest.approx([0.2] * 3 + [1])
    with pytest.raises(UserError, match="0.png is not an RGBA picture"):
        read_views(list_frames(tmp_path / "rgb"), BENCH4D)
    write_view(tmp_path / "wide", [picture(51)[:8]])
    with pytest.raises(UserError, match="is 16 x 8 pixels: frames must be square"):
        read_views(list_frames(tmp_path / "wide"), BENCH4D)
    (tmp_path / "wide" / "0.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_views(list_frames(tmp_path / "wide"), BENCH4D)
