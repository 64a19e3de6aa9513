"""What a user may ask for that cannot be: one message, status 2, before anything is drawn or written."""

import os

import numpy as np
import pytest
from PIL import Image

from threestudio_4d.generate import main
from threestudio_4d.prepare.folder import check_target


@pytest.fixture
def picture(tmp_path):
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[20:44, 20:44] = (200, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


def refused(capsys, out, *arguments):
    assert main([*arguments, "--quiet"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "cannot write" not in message and not os.path.exists(out)
    return message


def test_a_prior_of_another_kind(tmp_path, capsys, picture):
    out = str(tmp_path / "out")
    assert "sd-tiny" in refused(capsys, out, "a fox", out, "--model", "sd-tiny", "--device", "cpu")
    assert "zero123-tiny" in refused(capsys, out, picture, out, "--model", "zero123-tiny", "--device", "cpu")


@pytest.mark.parametrize("device", ["mps", "meta", "cuda:99", "gpu", "cpu:x"], ids=range(5))
def test_devices(device, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert device in refused(capsys, out, "a fox", out, "--device", device)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_place_that_takes_no_folder_is_refused_first(capsys):
    assert "/proc/x cannot be made" in refused(capsys, "/proc/x", "a fox", "/proc/x")


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path):
    check_target(tmp_path / "a" / "b", [], False)
    assert not list(tmp_path.iterdir())


