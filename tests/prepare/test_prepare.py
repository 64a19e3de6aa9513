"""The whole preparation, from files to a clip that training takes."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clip_makers import write_folder, write_video
from PIL import Image
from scenes_to_prepare import HEIGHT, WIDTH, RedFinder, composed, ellipse, iou, read_clip, rgba, texture

from threestudio_4d.data.clip import load_clip
from threestudio_4d.data.framing import common_box
from threestudio_4d.errors import UserError
from threestudio_4d.prepare import background, pipeline
from threestudio_4d.prepare.__main__ import main
from threestudio_4d.prepare.pipeline import prepare
from threestudio_4d.prepare.settings import Settings

SIDE_FILES = {"contact_sheet.png", "preview.mp4", "prepare.json"}


@pytest.fixture(autouse=True)
def fake_network(monkeypatch):
    """No weights are needed: what is red is the object."""
    monkeypatch.setattr(background, "U2Net", RedFinder)
    monkeypatch.setattr(pipeline, "choose_method", _auto_with_network)


def _auto_with_network(frames, path, key_color):
    try:
        return background.choose_method(frames, path, key_color)
    except UserError:
        return "u2net"


def save_animation(path: Path, frames, **options) -> Path:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=100, **options)
    return path


def save_picture(path: Path, frame, **options) -> Path:
    Image.fromarray(frame).save(path, **options)
    return path


MAKERS = {
    "mp4": ("u2net", lambda at: write_video(at / "in.mp4", composed(texture()), "libx264", "yuv444p", {"crf": "12"})),
    "mp4_white": (
        "key",
        lambda at: write_video(at / "in.mp4", composed((255,) * 3), "libx264", "yuv420p", {"crf": "12"}),
    ),
    "webm_alpha": ("alpha", lambda at: write_video(at / "in.webm", rgba(), "libvpx-vp9", "yuva420p")),
    "gif": ("key", lambda at: save_animation(at / "in.gif", composed((255, 255, 255)))),
    "apng": ("alpha", lambda at: save_animation(at / "in.png", rgba())),
    "webp": ("alpha", lambda at: save_animation(at / "in.webp", rgba(), lossless=True)),
    "pngs": ("alpha", lambda at: write_folder(at / "in", rgba())),
    "jpegs": ("u2net", lambda at: write_folder(at / "in", composed(texture()), "frame_{}.jpg")),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_input_gives_a_clip_that_training_takes(tmp_path, kind):
    method, make = MAKERS[kind]
    result = prepare([str(make(tmp_path))], tmp_path / "out", Settings(size=64, quiet=True))
    assert result.count == 6 and result.record["background"]["method"] == method and result.warnings == []
    clip = load_clip(str(tmp_path / "out"))
    assert len(clip) == 6 and clip.frames.shape == (6, 64, 64, 4)
    assert clip.notes == [] and clip.warnings == []
    # One crop for all: the whole clip's box is centred and fills its share; and masks are where the object is.
    top, bottom, left, right = common_box(list(clip.frames))
    assert max(bottom - top, right - left) / 64 == pytest.approx(0.75, abs=0.04)
    assert top + bottom == pytest.approx(64, abs=2) and left + right == pytest.approx(64, abs=2)
    expected = prepare(
        [str(write_folder(tmp_path / "true", rgba()))], tmp_path / "other", Settings(size=64, quiet=True)
    )
    true = read_clip(expected.out)[..., 3] / 255
    assert iou(read_clip(result.out)[..., 3] / 255, true) > 0.9


def test_the_folder_holds_frames_and_what_tells_about_them(tmp_path):
    source = write_folder(tmp_path / "in", rgba())
    result = prepare([str(source)], tmp_path / "deep" / "out", Settings(size=32, fps=8, quiet=True))
    names = {entry.name for entry in result.out.iterdir()}
    assert names == {f"{k}.png" for k in range(6)} | SIDE_FILES
    assert [entry.name for entry in result.out.parent.iterdir()] == ["out"]
    record = json.loads((result.out / "prepare.json").read_text())
    assert record["input"] == [str(source)] and record["settings"]["size"] == 32 and record["frames"] == 6
    assert record["source_frames"][5] == {"name": "5.png", "time": 0.625} and record["fps"] == pytest.approx(8)
    assert set(record["crop"]) == {"x", "y", "side"} and record["source_size"] == [WIDTH, HEIGHT]
    sheet = np.asarray(Image.open(result.out / "contact_sheet.png"))
    assert sheet.shape[1] == 6 * 160 and sheet.std() > 10


def test_colours_under_soft_edges_are_the_objects(tmp_path):
    source = write_folder(tmp_path / "in", composed(texture()))
    out = prepare([str(source)], tmp_path / "out", Settings(size=96, quiet=True)).out
    frames = read_clip(out).astype(np.float32)
    rim = (frames[..., 3] > 40) & (frames[..., 3] < 250)
    raw = prepare([str(source)], tmp_path / "raw", Settings(size=96, clean_edges=False, quiet=True)).out
    raw_frames = read_clip(raw).astype(np.float32)
    away = np.abs(frames[rim][:, :3] - (210, 30, 40)).mean()
    assert rim.sum() > 100 and away < 0.6 * np.abs(raw_frames[rim][:, :3] - (210, 30, 40)).mean()


def test_a_still_object_does_not_jitter(tmp_path):
    frames = [np.dstack([rgba(1)[0][..., :3], np.uint8(255 * ellipse(70))]) for _ in range(4)]
    frames[3] = rgba(1)[0]  # only the last frame moves
    made = read_clip(prepare([str(write_folder(tmp_path / "in", frames))], tmp_path / "out", Settings(quiet=True)).out)
    assert made.shape[1] == 512
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


def test_one_jpeg_gives_a_still_clip_or_one_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    photo = save_picture(tmp_path / "photo.jpg", composed(texture())[0], exif=exif, quality=95)
    result = prepare([str(photo)], tmp_path / "clip", Settings(size=64, quiet=True))
    assert result.count == 8 and "written 8 times as a still clip" in result.notes[0]
    assert result.record["source_size"] == [HEIGHT, WIDTH]
    clip = load_clip(str(tmp_path / "clip"))
    assert len(clip) == 8 and np.ptp(clip.frames, axis=0).max() == 0
    top, bottom, left, right = common_box(list(clip.frames))
    assert bottom - top > right - left  # the wide ellipse stands upright
    result = prepare([str(photo)], tmp_path / "picture", Settings(size=64, repeat=1, quiet=True))
    assert result.count == 1 and {p.name for p in result.out.iterdir()} == {"0.png"} | SIDE_FILES


def test_several_pictures_are_ordered_by_number(tmp_path):
    folder = write_folder(tmp_path / "in", rgba(11))
    files = sorted(str(path) for path in folder.iterdir())  # as a shell expands *.png: 10 before 2
    result = prepare(files, tmp_path / "out", Settings(size=32, quiet=True))
    assert [frame["name"] for frame in result.record["source_frames"]] == [f"{k}.png" for k in range(11)]
    with pytest.raises(UserError, match=r"several inputs must all be pictures, and there is no file .*absent.png"):
        prepare([files[0], str(folder / "absent.png")], tmp_path / "no", Settings(quiet=True))


def test_drawing_frames_between(tmp_path, monkeypatch):
    from threestudio_4d.prepare import interpolate

    def mix(first, last, times):
        return ((first + last) / 2)[:, None].expand(-1, len(times), -1, -1, -1)

    monkeypatch.setattr(interpolate, "RifeInterpolator", lambda cfg: mix)
    source = write_folder(tmp_path / "in", rgba())
    result = prepare([str(source)], tmp_path / "out", Settings(size=32, interpolate=2, fps=10, quiet=True))
    assert result.count == 11 and len(load_clip(str(result.out))) == 11
    assert result.record["fps"] == pytest.approx(20)


def test_missing_weights_of_rife_are_named_before_the_work(tmp_path, monkeypatch):
    def missing():
        raise UserError("no RIFE weights")

    monkeypatch.setattr(pipeline, "load_interpolator", missing)
    monkeypatch.setattr(pipeline, "remove_background", lambda *_: pytest.fail("it began to work"))
    source = write_folder(tmp_path / "in", rgba())
    with pytest.raises(UserError, match="no RIFE weights"):
        prepare([str(source)], tmp_path / "out", Settings(interpolate=2, quiet=True))


def test_none_keeps_the_picture_and_says_so(tmp_path):
    source = write_folder(tmp_path / "in", composed(texture()))
    result = prepare([str(source)], tmp_path / "out", Settings(size=64, background="none", quiet=True))
    assert "background was left in" in result.warnings[0]
    frames = read_clip(result.out)
    assert frames[:, 32, :, 3].min() == 255 and frames[:, 0, :, 3].max() == 0  # padded to a square


def test_an_object_cut_by_the_border_is_named(tmp_path):
    frames = rgba()
    for k, x in ((4, 150), (5, 156)):
        frames[k][..., 3] = np.uint8(255 * ellipse(x))
    result = prepare([str(write_folder(tmp_path / "in", frames))], tmp_path / "out", Settings(size=32, quiet=True))
    assert "touches the right border in 2 of 6 frames (4.png, 5.png)" in result.warnings[0]


def test_a_small_object_is_not_enlarged_in_silence(tmp_path):
    result = prepare([str(write_folder(tmp_path / "in", rgba()))], tmp_path / "out", Settings(size=512, quiet=True))
    assert "is enlarged to 512" in result.warnings[0]


def test_frames_without_an_object_are_named_and_nothing_is_written(tmp_path):
    frames = composed(texture())
    frames[2] = texture().astype(np.uint8)
    with pytest.raises(UserError, match=r"\(u2net\) found nothing in 1 of 6 frames: 2.png"):
        prepare([str(write_folder(tmp_path / "in", frames))], tmp_path / "out", Settings(quiet=True))
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_existing_folders(tmp_path):
    source = str(write_folder(tmp_path / "in", rgba()))
    settings = Settings(size=32, quiet=True)
    out = prepare([source], tmp_path / "out", settings).out
    with pytest.raises(UserError, match="out is not empty. Give another folder, or --overwrite"):
        prepare([source], out, settings)
    settings.overwrite, settings.frames = True, 3
    prepare([source], out, settings)
    assert len(read_clip(out)) == 3
    (out / "thesis.doc").write_text("years of work")
    with pytest.raises(UserError, match=r"does not look like an earlier result \(thesis.doc\)"):
        prepare([source], out, settings)
    with pytest.raises(UserError, match=r"\(no prepare.json\)"):
        prepare([str(out)], write_folder(tmp_path / "mine", rgba()), settings)
    with pytest.raises(UserError, match="holds the input"):
        prepare([source], source, settings)
    with pytest.raises(UserError, match="holds the input"):
        prepare([f"{source}/0.png"], source, settings)


@pytest.mark.parametrize("name", ["7.png", "clip.mp4", "2.png/inside.txt"])
def test_overwriting_leaves_files_of_others_alone(tmp_path, name):
    """Also those that are called as a result's files could be."""
    source = str(write_folder(tmp_path / "in", rgba()))
    settings = Settings(size=32, frames=2, quiet=True, overwrite=True)
    out = prepare([source], tmp_path / "out", settings).out
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match="does not look like an earlier result"):
        prepare([source], out, settings)
    assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("record", ["{", "[]", '{"made_by": "someone", "frames": 1}', '{"frames": "many"}'])
def test_a_foreign_record_does_not_make_a_result(tmp_path, record):
    source = str(write_folder(tmp_path / "in", rgba()))
    mine = write_folder(tmp_path / "mine", rgba()[:1])
    (mine / "prepare.json").write_text(record)
    with pytest.raises(UserError, match="does not look like an earlier result"):
        prepare([source], mine, Settings(size=32, quiet=True, overwrite=True))
    assert (mine / "0.png").exists()


def test_a_noisy_plain_background(tmp_path):
    """Its tolerance is measured, in float32, and written to the record."""
    noise = np.random.default_rng(0)
    frames = [np.clip(f + noise.normal(0, 3, f.shape), 0, 255).astype(np.uint8) for f in composed((200, 210, 220))]
    source = str(write_folder(tmp_path / "in", frames))
    result = prepare([source], tmp_path / "out", Settings(size=32, quiet=True))
    assert result.record["background"]["method"] == "key"
    assert json.loads((result.out / "prepare.json").read_text())["background"]["key_tolerance"] > 0


def test_names_that_are_not_utf_8(tmp_path, capsys):
    """Input is read whatever its name; OpenCV and FFmpeg end the process at such names if they get them."""
    source = tmp_path / os.fsdecode(b"d\xffg")
    write_folder(source, rgba(), os.fsdecode(b"fr\xe4me{}.png"))
    assert main([str(source), str(tmp_path / "out"), "--size", "32", "--quiet"]) == 0
    assert main([str(source), str(tmp_path / os.fsdecode(b"o\xfft")), "--size", "32", "--quiet"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_link_to_the_result_stays_a_link(tmp_path):
    source = str(write_folder(tmp_path / "in", rgba()))
    prepare([source], tmp_path / "out", Settings(size=32, quiet=True))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    prepare([source], tmp_path / "link", Settings(size=16, quiet=True, overwrite=True))
    assert (tmp_path / "link").is_symlink() and read_clip(tmp_path / "out").shape == (6, 16, 16, 4)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "link", "out"]


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("in", "in/0.png/out", "in/0.png/out cannot be made: {at}/in/0.png is a file."),
        ("~nobody-of-that-name/a.mp4", "out", "~nobody-of-that-name/a.mp4 does not exist"),
        ("x" * 300, "out", "does not exist"),
    ],
)
def test_paths_that_cannot_be(tmp_path, monkeypatch, capsys, source, out, message):
    write_folder(tmp_path / "in", rgba())
    monkeypatch.chdir(tmp_path)
    assert main([source, out]) == 2
    error = capsys.readouterr().err
    assert message.format(at=tmp_path) in error and "cannot write" not in error


def test_a_failure_while_writing_leaves_the_old_result(tmp_path, monkeypatch):
    source = str(write_folder(tmp_path / "in", rgba()))
    out = prepare([source], tmp_path / "out", Settings(size=32, quiet=True)).out

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "write_preview", full)
    assert main([source, str(out), "--overwrite", "--size", "16", "--quiet"]) == 2
    assert read_clip(out).shape == (6, 32, 32, 4)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "out"]


def _broken_video(at):
    whole = write_video(at / "whole.mp4", composed((255, 255, 255)), "libx264", "yuv420p").read_bytes()
    (at / "bad.mp4").write_bytes(whole[: len(whole) // 2])
    return at / "bad.mp4"


def _file(at, name, data=b""):
    (at / name).write_bytes(data)
    return at / name


def _folder(at):
    (at / "nothing").mkdir()
    return at / "nothing"


def _truncated_png(at):
    folder = write_folder(at / "in", rgba())
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    return folder


BAD = {
    "truncated video": (_broken_video, "the video cannot be decoded"),
    "empty video": (lambda at: _file(at, "a.mp4"), "the video cannot be decoded"),
    "noise for a picture": (lambda at: _file(at, "a.jpg", b"noise"), "a.jpg: this picture cannot be read"),
    "noise for a GIF": (lambda at: _file(at, "a.gif", b"GIF89a??"), "a.gif: this picture cannot be read"),
    "empty folder": (_folder, "no pictures in this folder (it is empty)"),
    "damaged frame": (_truncated_png, "1 of 6 pictures cannot be read: 3.png"),
    "text": (lambda at: _file(at, "a.txt"), "is not a kind of file that a clip can be read from"),
    "nothing there": (lambda at: at / "clip.mp4", "does not exist"),
    "one colour": (
        lambda at: save_picture(at / "a.png", np.full((40, 40, 3), 90, np.uint8)),
        "the background removal (key) found nothing in 1 of 1 frames",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_give_one_message_and_status_2(tmp_path, capsys, case):
    make, message = BAD[case]
    assert main([str(make(tmp_path)), str(tmp_path / "out"), "--quiet"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and message in printed.err
    assert printed.err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--frames", "0"], "--frames is 0; it must be from 1 to 128."),
        (["--frames", "4", "--stride", "2"], "give one of them"),
        (["--fill", "1.5"], "--fill is 1.5; it must be from 0.1 to 1."),
        (["--start", "3", "--end", "2"], "--end (2 s) comes before --start (3 s)."),
        (["--fps", "nan"], "--fps is nan"),
        (["--background", "green"], "--background is 'green'. Allowed: auto, alpha"),
        (["--start", "9", "--fps", "1"], "no frame is shown from 9 s on: the 6 frames are shown from 0 to 5.00 s"),
    ],
)
def test_wrong_values_are_explained(tmp_path, capsys, flags, message):
    source = write_folder(tmp_path / "in", rgba())
    assert main([str(source), str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_what_to_do_next(tmp_path, capsys):
    source = write_folder(tmp_path / "in", rgba())
    assert main([str(source), str(tmp_path / "out"), "--size", "48", "--loop", "--frames", "9"]) == 0
    printed = capsys.readouterr()
    assert f"data.image_seq_path={tmp_path / 'out'} data.loop=true" in printed.out
    assert "note: --frames asks for 9, there are 6" in printed.err
    assert main([str(source), str(tmp_path / "my clip's"), "--size", "48"]) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("Train with: ")[2])
    assert f"data.image_seq_path={tmp_path / 'my clip'}'s" in command


def test_runs_as_a_folder_without_an_installation(repository, tmp_path):
    command = [sys.executable, str(repository / "custom" / "threestudio_4d" / "prepare"), "absent.mp4", "out"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 2, done.stderr
    assert "error: INPUT: absent.mp4 does not exist" in done.stderr and "Traceback" not in done.stderr


def test_the_real_clip_keeps_its_alpha(shared_data, tmp_path):
    source = shared_data / "real" / "blooming_rose"
    if not source.is_dir():
        pytest.skip("the real clip is absent")
    result = prepare([str(source)], tmp_path / "out", Settings(size=128, frames=4, quiet=True))
    assert result.record["background"]["method"] == "alpha" and len(load_clip(str(result.out))) == 4
