"""Every kind of input gives the same clip."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clip_makers import make_clip, over, write_folder, write_video
from PIL import Image

from threestudio_4d.data.clip import load_clip
from threestudio_4d.data.frame_choice import choose_frames
from threestudio_4d.data.frame_sources import SIDE_FILES, open_source


def iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


def assert_like(path: Path, frames: list[np.ndarray], least_iou: float = 0.97, most_error: float = 0.02, **options):
    clip = load_clip(str(path), **options)
    assert len(clip) == len(frames)
    rgb, alpha = clip.resized(32)
    expected_rgb, expected_alpha = load_clip_of(frames, path.parent / "expected").resized(32)
    assert iou(alpha, expected_alpha) > least_iou
    assert np.abs(rgb - expected_rgb).mean() < most_error
    return clip


def load_clip_of(frames: list[np.ndarray], folder: Path):
    return load_clip(str(write_folder(folder, frames)))


def test_folder_in_natural_order(clip_folder: Path):
    clip = load_clip(str(clip_folder))
    assert clip.names == [f"{i}.png" for i in range(12)]
    assert clip.frames.shape == (12, 64, 64, 4) and clip.frames.dtype == np.uint8
    assert (clip.frames == np.stack(make_clip(12))).all()
    assert clip.notes == [] and clip.warnings == []


@pytest.mark.parametrize("pattern", ["frame_{}.png", "walk {:04d} final.webp", "IMG-{:d}.tif"])
def test_any_numbered_names(tmp_path: Path, pattern: str):
    write_folder(tmp_path / "c", make_clip(11), pattern)
    assert load_clip(str(tmp_path / "c")).names == [pattern.format(i) for i in range(11)]


def test_names_without_numbers(tmp_path: Path):
    for name, frame in zip(("a.png", "b.png", "c.png"), make_clip(3), strict=True):
        Image.fromarray(frame).save(tmp_path / name)
    assert load_clip(str(tmp_path)).names == ["a.png", "b.png", "c.png"]


def test_stray_files_are_ignored_with_a_note(clip_folder: Path):
    (clip_folder / "notes.txt").write_text("x")
    (clip_folder / ".DS_Store").write_text("x")
    (clip_folder / "._0.png").write_text("x")
    (clip_folder / "old").mkdir()
    Image.new("RGB", (8, 8)).save(clip_folder / "preview.png")
    clip = load_clip(str(clip_folder))
    assert len(clip) == 12
    assert "notes.txt, old" in clip.notes[0] and "DS_Store" not in "".join(clip.notes)
    assert "preview.png" in clip.notes[1]


def test_a_gap_in_the_numbers_is_noted(clip_folder: Path):
    (clip_folder / "5.png").unlink()
    clip = load_clip(str(clip_folder))
    assert len(clip) == 11 and "leaves out 5" in clip.notes[0]


def test_pattern(tmp_path: Path):
    write_folder(tmp_path / "c", make_clip(4), "{}_rgba.png")
    write_folder(tmp_path / "c", make_clip(4), "{}.jpg.png")
    assert load_clip(str(tmp_path / "c" / "*_rgba.png")).names[-1] == "3_rgba.png"


@pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (0, 177, 64)])
def test_mp4_on_a_plain_background_is_keyed(tmp_path: Path, color):
    frames = make_clip(6, 128, 128)
    path = write_video(tmp_path / "c.mp4", [over(f, color) for f in frames], "libx264", "yuv420p")
    clip = assert_like(path, frames, 0.93, 0.02)
    assert "was keyed out" in clip.notes[0] and "data.key_color" in clip.notes[0]


def test_keying_keeps_black_parts_inside_on_black(tmp_path: Path):
    frames = make_clip(4, 128, 128)
    for frame in frames:
        frame[62:64, 62:64, :3] = 4
    path = write_video(tmp_path / "c.mp4", [over(f, (0, 0, 0)) for f in frames], "libx264", "yuv420p")
    assert load_clip(str(path)).frames[:, 62:64, 62:64, 3].min() == 255


def test_keying_opens_holes(tmp_path: Path):
    frames = make_clip(4, 128, 128)
    for frame in frames:
        frame[56:72, 56:72, 3] = 0
    path = write_video(tmp_path / "c.mp4", [over(f, (255, 255, 255)) for f in frames], "libx264", "yuv420p")
    alpha = load_clip(str(path)).frames[..., 3]
    assert alpha[:, 62:66, 62:66].max() == 0


def test_folder_is_keyed_on_request(tmp_path: Path):
    frames = make_clip(4)
    write_folder(tmp_path / "c", [over(f, (255, 255, 255)) for f in frames])
    assert_like(tmp_path / "c", frames, key_color="white")
    assert_like(tmp_path / "c", frames, key_color="#ffffff")


@pytest.mark.parametrize(
    "name, codec, pix_fmt",
    [("c.webm", "libvpx-vp9", "yuva420p"), ("c.mov", "png", "rgba"), ("d.mov", "prores_ks", "yuva444p10le"),
     ("e.mov", "qtrle", "argb")],
)  # fmt: skip
def test_video_with_alpha(tmp_path: Path, name: str, codec: str, pix_fmt: str):
    frames = make_clip(6)
    path = write_video(tmp_path / name, frames, codec, pix_fmt)
    clip = assert_like(path, frames, 0.97, 0.02)
    assert clip.notes == []


@pytest.mark.parametrize("as_video", [False, True])
def test_masks(tmp_path: Path, as_video: bool):
    frames = make_clip(6)
    masks = [f[..., 3] for f in frames]
    scene = [np.where(f[..., 3:] > 0, f[..., :3], (90, 140, 60)).astype(np.uint8) for f in frames]
    for f in scene:
        f[::7, ::5] = 255  # no plain background
    video = write_video(tmp_path / "c.mp4", scene, "libx264", "yuv420p", {"crf": "4"})
    if as_video:
        mask_path = write_video(tmp_path / "m.mp4", masks, "libx264", "gray", {"crf": "4"})
    else:
        mask_path = write_folder(tmp_path / "m", masks)
    assert_like(video, frames, 0.95, 0.06, mask_path=str(mask_path))


@pytest.mark.parametrize("kind", ["zero_one", "label_map", "alpha", "small"])
def test_kinds_of_mask(tmp_path: Path, kind: str):
    frames = make_clip(3)
    write_folder(tmp_path / "c", [f[..., :3] for f in frames])
    solid = [(f[..., 3] > 127).astype(np.uint8) for f in frames]
    (tmp_path / "m").mkdir()
    for i, mask in enumerate(solid):
        if kind == "label_map":
            image = Image.fromarray(mask, "P")
            image.putpalette([0, 0, 0, 128, 0, 0])
        elif kind == "alpha":
            image = Image.fromarray(np.dstack([np.zeros((64, 64, 3), np.uint8), mask * 255]))
        elif kind == "small":
            image = Image.fromarray(mask * 255).resize((32, 32), Image.Resampling.BOX)
        else:
            image = Image.fromarray(mask)
        image.save(tmp_path / "m" / f"{i}.png")
    clip = load_clip(str(tmp_path / "c"), str(tmp_path / "m"))
    assert iou(clip.frames[..., 3] / 255, np.stack(solid)) > 0.95
    assert clip.frames[..., 3].max() == 255


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animated_picture(tmp_path: Path, suffix: str):
    frames = make_clip(5)
    images = [Image.fromarray(f) for f in frames]
    if suffix == "gif":
        images = [Image.fromarray(np.where(f[..., 3:] > 127, f, 0).astype(np.uint8)) for f in frames]
    options = {"disposal": 2} if suffix == "gif" else {}
    path = tmp_path / f"c.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0, **options)
    assert_like(path, frames, 0.93, 0.03)


def test_resizing_never_shows_what_alpha_hides(clip_folder: Path):
    rgb, alpha = load_clip(str(clip_folder)).resized(16)
    edge = (alpha[..., 0] > 0) & (alpha[..., 0] < 1)
    assert edge.any()
    pure = np.where(edge[..., None], (rgb - (1 - alpha)) / np.maximum(alpha, 1e-6), 0)
    assert pure[..., 1][edge & (alpha[..., 0] > 0.05)].max() < 0.25  # no green from under alpha 0
    assert rgb.dtype == np.float32 and rgb.min() >= 0 and rgb.max() <= 1
    assert rgb[:, 0, 0].min() == 1.0 and alpha[:, 0, 0].max() == 0.0


def test_resizing_is_exact_where_it_can_be_checked():
    from threestudio_4d.data.clip import Clip

    frame = np.zeros((2, 2, 2, 4), np.uint8)
    frame[:, 0, 0] = (255, 0, 0, 255)
    frame[:, 0, 1] = (0, 255, 0, 0)
    rgb, alpha = Clip(frame, ["a", "b"]).resized(1)
    np.testing.assert_allclose(alpha[:, 0, 0, 0], 0.25, atol=1e-6)
    np.testing.assert_allclose(rgb[:, 0, 0], [[1.0, 0.75, 0.75]] * 2, atol=1e-6)


@pytest.mark.parametrize("height, width", [(40, 80), (81, 40)])
def test_non_square_frames_are_padded(tmp_path: Path, height: int, width: int):
    frames = make_clip(3, height, width)
    clip = load_clip(str(write_folder(tmp_path / "c", frames)))
    side = max(height, width)
    assert clip.frames.shape == (3, side, side, 4)
    y, x = (side - height) // 2, (side - width) // 2
    assert (clip.frames[:, y : y + height, x : x + width] == np.stack(frames)).all()
    assert clip.frames[..., 3].astype(int).sum() == np.stack(frames)[..., 3].astype(int).sum()


def test_large_frames_are_shrunk_while_read(tmp_path: Path):
    clip = load_clip(str(write_folder(tmp_path / "c", make_clip(2, 100, 200))), max_size=50)
    assert clip.frames.shape == (2, 50, 50, 4)


def test_recenter_moves_the_whole_clip_alike(tmp_path: Path):
    frames = [np.zeros((100, 100, 4), np.uint8) for _ in range(3)]
    for i, frame in enumerate(frames):
        frame[5:15, 60 + 2 * i : 70 + 2 * i] = (200, 0, 0, 255)
    folder = str(write_folder(tmp_path / "c", frames))
    assert any("data.recenter" in w for w in load_clip(folder).warnings)
    clip = load_clip(folder, recenter=True, recenter_fill=0.5)
    assert clip.warnings == [] and clip.frames.shape[1] == 28
    columns = [np.flatnonzero(f[..., 3].any(0)) for f in clip.frames]
    assert [c[0] for c in columns] == [7, 9, 11]
    rows = np.flatnonzero(clip.frames[0, ..., 3].any(1))
    assert (rows[0], rows[-1]) == (9, 18)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"count": 10}, list(range(10))),
        ({"count": 10, "frame_stride": 3}, [0, 3, 6, 9]),
        ({"count": 9, "num_frames": 3}, [0, 4, 8]),
        ({"count": 9, "num_frames": 3, "loop": True}, [0, 3, 6]),
        ({"count": 300, "max_frames": 4}, [0, 100, 199, 299]),
        ({"count": 4, "num_frames": 9}, [0, 1, 2, 3]),
    ],
)
def test_choice_of_frames(arguments: dict, expected: list[int]):
    indices, note = choose_frames(**arguments)
    assert indices == expected
    assert bool(note) == ("max_frames" in arguments or arguments.get("num_frames") == 9)


def test_only_the_chosen_frames_are_read(clip_folder: Path):
    (clip_folder / "1.png").write_bytes(b"broken")
    assert load_clip(str(clip_folder), frame_stride=2).names == [f"{i}.png" for i in range(0, 12, 2)]


def test_video_frames_are_chosen_too(tmp_path: Path):
    frames = make_clip(10)
    path = write_video(tmp_path / "c.mov", frames, "png", "rgba")
    clip = load_clip(str(path), num_frames=4)
    assert clip.names == ["0", "3", "6", "9"]
    assert np.abs(clip.frames[2].astype(int) - frames[6]).max() == 0


def test_a_phone_video_is_turned_upright(tmp_path: Path):
    frames = make_clip(4, 48, 64)
    for frame in frames:
        frame[:14, 24:40] = (200, 40, 30, 255)  # a mark at the top
    path = write_video(tmp_path / "c.mp4", [over(f, (255, 255, 255)) for f in frames], "libx264", "yuv420p")
    data = path.read_bytes()
    start = data.index(b"tkhd") + 44
    quarter_turn_right = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data[:start] + quarter_turn_right + data[start + 36 :])
    clip = load_clip(str(path))
    assert clip.frames.shape == (4, 64, 64, 4)
    solid = clip.frames[0, ..., 3] > 127
    upright = np.rot90(frames[0][..., 3], -1) > 127
    assert (solid[:, 8:56] & upright).sum() / (solid[:, 8:56] | upright).sum() > 0.9


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_times_of_animated_pictures(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"clip.{kind}"
    first, *rest = [Image.fromarray(frame) for frame in make_clip(4)]
    first.save(path, save_all=True, append_images=rest, duration=[100, 300, 50, 100])
    assert open_source(str(path), "key").times() == pytest.approx([0.0, 0.1, 0.4, 0.45])


def test_times_of_a_video_with_a_variable_frame_rate(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    shown = [0, 2, 3, 9, 10]  # thirtieths of a second
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        stream.codec_context.time_base = stream.time_base = Fraction(1, 30)
        for stamp, frame in zip(shown, make_clip(5), strict=True):
            picture = av.VideoFrame.from_ndarray(over(frame, (255, 255, 255)), format="rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert open_source(str(path), "key").times() == pytest.approx([s / 30 for s in shown])


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = 64, 96
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for frame in make_clip(3, 96, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(over(frame, (255, 255, 255)), format="rgb24")))
        container.mux(stream.encode(None))
    assert open_source(str(path), "key").read([0], lambda frame: frame)[0].shape == (96, 96, 3)


def test_times_of_a_video_with_alpha(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.webm", make_clip(4), "libvpx-vp9", "yuva420p")
    assert open_source(str(path), "key").times() == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=2e-3)


def test_one_picture_is_a_source_where_it_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    source = open_source(str(path), "key", allow_picture=True)
    assert source.names == ["photo.jpg"] and source.times() is None
    assert source.read([0], lambda frame: frame)[0].shape == (40, 20, 3)


def test_grey_of_16_bit_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)).save(tmp_path / "0.png")
    frame = open_source(str(tmp_path), "key").read([0], lambda frame: frame)[0]
    assert frame.shape == (16, 16, 3) and (frame == np.arange(256).reshape(16, 16, 1)).all()


def test_what_the_preparation_writes_beside_the_frames_is_no_frame(clip_folder: Path) -> None:
    for name in SIDE_FILES:
        (clip_folder / name).write_bytes(b"")
    source = open_source(str(clip_folder), "key")
    assert len(source) == 12 and source.notes == []


def test_a_video_that_ends_early_is_noted(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    whole = write_video(tmp_path / "whole.mkv", list(noise), "libx264", "yuv420p")
    assert open_source(str(whole), "key").notes == []
    data = whole.read_bytes()
    (tmp_path / "part.mkv").write_bytes(data[: len(data) // 2])
    assert "It may be incomplete" in open_source(str(tmp_path / "part.mkv"), "key").notes[0]
