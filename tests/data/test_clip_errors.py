"""What is wrong with a clip is said before the first step, with what to do."""

import sys
from pathlib import Path

import numpy as np
import pytest
from clip_makers import make_clip, over, write_folder, write_video
from PIL import Image

from threestudio_4d.data.clip import load_clip
from threestudio_4d.errors import UserError


def message(path: Path | str, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_clip(str(path), **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


def test_no_path():
    assert "data.image_seq_path is empty" in message("")


def test_absent_path_suggests_the_nearest(clip_folder: Path):
    text = message(clip_folder.parent / "clyp")
    assert "does not exist" in text and f"Did you mean {clip_folder}?" in text


def test_empty_folder(tmp_path: Path):
    text = message(tmp_path)
    assert "no pictures in this folder (it is empty)" in text and "0.png, 1.png" in text


def test_a_frame_without_permission_is_not_called_damaged(clip_folder: Path, monkeypatch):
    """As root every file can be read, so that the refusal is played."""
    opens = Image.open

    def refuse(path, *args, **options):
        if Path(path).name == "3.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *args, **options)

    monkeypatch.setattr(Image, "open", refuse)
    assert f"{clip_folder / '3.png'} may not be read: change its permissions" in message(clip_folder)


def test_folder_that_holds_other_things(tmp_path: Path):
    (tmp_path / "walk.mp4").write_bytes(b"")
    (tmp_path / "frames").mkdir()
    text = message(tmp_path)
    assert "walk.mp4" in text and f"give its path: {tmp_path / 'walk.mp4'}" in text
    assert f"give that: {tmp_path / 'frames'}" in text


def test_one_frame(tmp_path: Path):
    assert "needs 2 frames or more, and this gives 1" in message(write_folder(tmp_path, make_clip(1)))


def test_one_picture_instead_of_a_folder(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    assert "is one picture" in message(tmp_path / "a.jpg")
    Image.fromarray(make_clip(2)[0]).save(tmp_path / "a.png")
    assert "needs 2 frames or more" in message(tmp_path / "a.png")


def test_unknown_kind_of_file(tmp_path: Path):
    (tmp_path / "clip.txt").write_text("x")
    assert "not a kind of file" in message(tmp_path / "clip.txt") and ".mp4" in message(tmp_path / "clip.txt")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_corrupt_frames_are_named(clip_folder: Path, damage: str):
    whole = (clip_folder / "3.png").read_bytes()
    broken = {"truncated": whole[: len(whole) // 2], "garbage": b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "empty": b""}[damage]
    (clip_folder / "3.png").write_bytes(broken)
    text = message(clip_folder)
    assert "1 of 12 pictures cannot be read: 3.png" in text


def test_mixed_sizes(clip_folder: Path):
    Image.fromarray(make_clip(1, 32, 48)[0]).save(clip_folder / "4.png")
    text = message(clip_folder)
    assert "different sizes" in text and "48x32: 4.png" in text and "64x64: 0.png, 1.png, 2.png and 8 more" in text


def test_mixed_sequences(tmp_path: Path):
    write_folder(tmp_path, make_clip(3), "{}.png")
    write_folder(tmp_path, make_clip(3), "{}_mask.png")
    text = message(tmp_path)
    assert "#.png (3), #_mask.png (3)" in text and "*" in text


def test_rgb_folder(tmp_path: Path):
    noise = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8) for i in range(7)]
    text = message(write_folder(tmp_path, noise))
    assert "0.png, 1.png, 2.png, 3.png, 4.png and 2 more have no alpha channel" in text
    assert "data.mask_path" in text and "data.key_color" in text


def test_rgb_folder_on_a_plain_background_is_told_the_key(tmp_path: Path):
    text = message(write_folder(tmp_path, [over(f, (255, 255, 255)) for f in make_clip(3)]))
    assert "data.key_color='#ffffff'" in text


def test_opaque_alpha(tmp_path: Path):
    frames = make_clip(3)
    for frame in frames:
        frame[..., 3] = 255
        frame[::3, ::2, :3] = 90
    assert "an alpha channel that is opaque everywhere" in message(write_folder(tmp_path, frames))


def test_some_frames_without_alpha(clip_folder: Path):
    for name in ("2.png", "10.png"):
        Image.open(clip_folder / name).convert("RGB").save(clip_folder / name)
    text = message(clip_folder)
    assert "2 of 12 frames have no alpha, or are opaque everywhere: 2.png, 10.png." in text


def test_empty_alpha(clip_folder: Path):
    Image.fromarray(np.zeros((64, 64, 4), np.uint8)).save(clip_folder / "7.png")
    text = message(clip_folder)
    assert "1 of 12 frames are empty" in text and "7.png" in text


def test_border_warning(tmp_path: Path):
    frames = [np.roll(f, 20, axis=1) for f in make_clip(4)]
    for frame in frames:
        frame[:, :20, 3] = 0
    clip = load_clip(str(write_folder(tmp_path, frames)))
    assert len(clip.warnings) == 1 and "touches the right border in" in clip.warnings[0]


def test_video_without_plain_background(tmp_path: Path):
    y, x = np.mgrid[:64, :64]
    scene = np.dstack([4 * x, 4 * y, 2 * (x + y)]).astype(np.uint8)
    path = write_video(tmp_path / "c.mp4", [scene] * 4, "libx264", "yuv420p")
    text = message(path)
    assert "no alpha channel" in text and "this one is not plain" in text and "data.mask_path" in text


def test_keying_can_be_forbidden(tmp_path: Path):
    path = write_video(tmp_path / "c.mp4", [over(f, (0, 0, 0)) for f in make_clip(4)], "libx264", "yuv420p")
    assert "data.key_color" in message(path, key_color="none")
    assert "data.key_color is 'pinkish'. Allowed: auto, none, white" in message(path, key_color="pinkish")


def test_blank_video(tmp_path: Path):
    path = write_video(tmp_path / "c.mp4", [np.zeros((64, 64, 3), np.uint8)] * 4, "libx264", "yuv420p")
    assert "4 of 4 frames are empty" in message(path)


@pytest.mark.parametrize("content", [b"", b"this is not a video", None])
def test_broken_video(tmp_path: Path, content: bytes | None):
    if content is None:
        whole = write_video(tmp_path / "w.mp4", [over(f, (0, 0, 0)) for f in make_clip(4)], "libx264", "yuv420p")
        content = whole.read_bytes()[:700]
    (tmp_path / "c.mp4").write_bytes(content)
    text = message(tmp_path / "c.mp4")
    assert "cannot be decoded" in text and "folder of frames" in text


def test_video_without_pyav(tmp_path: Path, monkeypatch):
    (tmp_path / "c.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install av" in message(tmp_path / "c.mp4")


def test_masks_that_do_not_fit(tmp_path: Path, clip_folder: Path):
    masks = [f[..., 3] for f in make_clip(12)]
    fewer = write_folder(tmp_path / "fewer", masks[:10])
    assert "has 10 masks and" in message(clip_folder, mask_path=str(fewer))
    flat = write_folder(tmp_path / "flat", [m[:32] for m in masks])
    assert "mask 0.png is 64x32 and its frame is 64x64" in message(clip_folder, mask_path=str(flat))
    shifted = tmp_path / "shifted"
    shifted.mkdir()
    for i, mask in enumerate(masks):
        Image.fromarray(mask).save(shifted / f"{i + 1}.png")
    assert "do not pair up: frame 0.png meets mask 1.png" in message(clip_folder, mask_path=str(shifted))
    assert "data.mask_path" in message(clip_folder, mask_path=str(tmp_path / "nowhere"))
    white = write_folder(tmp_path / "white", [np.full((64, 64), 255, np.uint8)] * 12)
    assert "opaque everywhere" in message(clip_folder, mask_path=str(white))
