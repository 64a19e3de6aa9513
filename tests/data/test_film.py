"""What films bring along: colour tags, interlacing, cover pictures, varying frame rates, damage."""

import gc
import os
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clip_makers import make_clip, over, write_video
from PIL import Image

from threestudio_4d.data.clip import load_clip
from threestudio_4d.data.frame_sources import open_source
from threestudio_4d.data.video_color import HLG, PQ, rgb_to_xyz, to_srgb
from threestudio_4d.errors import UserError
from threestudio_4d.srgb import srgb_to_linear

av = pytest.importorskip("av")
PATCHES = np.array([[255, 255, 255], [128, 128, 128], [200, 40, 30], [20, 160, 60], [30, 60, 220], [0, 0, 0]], np.uint8)


def encoded(srgb: np.ndarray, transfer: int) -> np.ndarray:
    """sRGB to BT.2020 code values of PQ or HLG with white at 203 cd/m2: BT.2100 and BT.2408 the other way round."""
    light = srgb_to_linear(srgb / 255.0) @ (np.linalg.inv(rgb_to_xyz(9)) @ rgb_to_xyz(1)).T
    nits = np.maximum(light, 0.0) * 203.0
    if transfer == PQ:
        root = (nits / 10000.0) ** (2610 / 16384)
        return ((3424 / 4096 + 2413 / 128 * root) / (1 + 2392 / 128 * root)) ** (2523 / 32)
    luminance = (nits / 1000.0) @ [0.2627, 0.6780, 0.0593]
    scene = nits / 1000.0 / np.maximum(luminance, 1e-9)[..., None] ** (0.2 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def write_tagged(path: Path, rgb: np.ndarray, count: int = 3, **tags: int) -> Path:
    """Frames of uint16 ``[H, W, 3]`` in 4:4:4 with 10 bits, lossless but for rounding, with the given tags."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *rgb.shape[:2], "yuv444p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc = tags["primaries"], tags["transfer"]
        context.colorspace, context.color_range = tags["matrix"], tags.get("range", 1)
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb48le")
            frame = frame.reformat(
                format="yuv444p10le", dst_colorspace=tags["matrix"], dst_color_range=tags.get("range", 1)
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patches(values: np.ndarray, size: int = 32) -> np.ndarray:
    return np.repeat(np.repeat(values[None], size, 0), size, 1)


def shown(path: Path) -> np.ndarray:
    """The middles of the patches of the first frame."""
    frame = open_source(str(path), "key").read([0], lambda frame: frame)[0]
    return frame[16, 16::32].astype(int)


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_gives_the_colours_of_sdr(transfer: int) -> None:
    out = to_srgb(encoded(PATCHES.astype(np.float64), transfer), transfer, 9)
    assert np.abs(out.astype(int) - PATCHES).max() <= 1


def test_brighter_than_white_keeps_its_hue() -> None:
    out = to_srgb(np.array([[0.9, 0.9, 0.9], [0.9, 0.6, 0.6]]), HLG, 9)
    assert out[0].tolist() == [255, 255, 255] and out[1, 0] == 255 and out[1, 1:].max() < 200


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_film_is_converted_and_said_so(tmp_path: Path, transfer: int) -> None:
    values = patches(np.round(encoded(PATCHES.astype(np.float64), transfer) * 65535).astype(np.uint16))
    path = write_tagged(tmp_path / "hdr.mp4", values, matrix=9, transfer=transfer, primaries=9)
    assert np.abs(shown(path) - PATCHES).max() <= 5  # 10 bits in studio range
    assert "HDR" in open_source(str(path), "key").notes[0]


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("range_", [1, 2])
def test_matrix_and_range_are_honoured(tmp_path: Path, matrix: int, range_: int) -> None:
    values = patches(PATCHES.astype(np.uint16) * 257)
    path = write_tagged(tmp_path / "a.mp4", values, matrix=matrix, transfer=1, primaries=1, range=range_)
    assert np.abs(shown(path) - PATCHES).max() <= 3


def test_interlaced_film_has_no_combed_edges(tmp_path: Path) -> None:
    """A bar that moves by 8 pixels between the fields of a frame."""
    path = tmp_path / "i.mp4"
    with av.open(str(path), "w") as container:
        options = {"crf": "1", "flags": "+ildct+ilme", "x264-params": "tff=1"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for k in range(6):
            picture = np.zeros((64, 96, 3), np.uint8)
            for field in range(2):
                x = 8 + 8 * (2 * k + field) % 64
                picture[field::2, x : x + 16] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    source = open_source(str(path), "key")
    frames = source.read(list(range(6)), lambda frame: frame[..., 0].astype(int))
    assert "interlaced" in source.notes[0]
    comb = [np.abs(f[1:-1] * 2 - f[:-2] - f[2:]).mean() for f in frames]
    assert len(frames) == 6 and max(comb) < 12  # 80 and more when fields are woven


def write_two_streams(path: Path, cover: np.ndarray, frames: list[np.ndarray]) -> Path:
    with av.open(str(path), "w") as container:
        first = container.add_stream("mjpeg", rate=10)
        first.height, first.width, first.pix_fmt = *cover.shape[:2], "yuvj420p"
        film = container.add_stream("libx264", rate=10)
        film.height, film.width, film.pix_fmt = *frames[0].shape[:2], "yuv420p"
        container.mux(first.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
        for frame in frames:
            container.mux(film.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(film.encode(None))
        container.mux(first.encode(None))
    return path


def test_a_cover_picture_is_not_the_film(tmp_path: Path) -> None:
    frames = [over(f, (255, 255, 255)) for f in make_clip(5)]
    path = write_two_streams(tmp_path / "c.mkv", np.zeros((128, 128, 3), np.uint8), frames)
    source = open_source(str(path), "key")
    assert len(source) == 5 and source.read([0], lambda f: f)[0].shape == (64, 64, 3)


@pytest.mark.parametrize("name", ["film.mts", "film.bin", "film", "film.png.mov", b"f\xfflm.mp4"])
def test_the_kind_is_found_by_content_whatever_the_name(tmp_path: Path, name) -> None:
    frames = [over(f, (255, 255, 255)) for f in make_clip(5)]
    made = write_video(tmp_path / "made.mp4", frames, "libx264", "yuv420p")
    path = tmp_path / os.fsdecode(name)
    made.rename(path)
    assert len(load_clip(str(path))) == 5


def test_a_varying_frame_rate_keeps_its_speed_when_loaded_directly(tmp_path: Path) -> None:
    path = tmp_path / "vfr.mp4"
    moments = [0, 1, 2, 3, 7, 11]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for moment, frame in zip(moments, make_clip(6), strict=True):
            picture = av.VideoFrame.from_ndarray(over(frame, (255, 255, 255)), format="rgb24")
            picture.pts, picture.time_base = moment, Fraction(1, 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    clip = load_clip(str(path), num_frames=6)
    assert clip.names == ["0", "2", "3", "4", "4", "5"] or clip.names == ["0", "2", "3", "4", "5", "5"]
    assert any("frame rate varies" in note for note in clip.notes)
    assert load_clip(str(path), frame_stride=2).names == ["0", "2", "4"]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["mp4", "gif", "webp", "mkv"])
def test_what_is_cut_off_is_read_or_explained(tmp_path: Path, kind: str, share: float) -> None:
    frames = [over(f, (255, 255, 255)) for f in make_clip(6)]
    path = tmp_path / f"a.{kind}"
    if kind in ("mp4", "mkv"):
        write_video(path, frames, "libx264", "yuv420p")
    else:
        first, *rest = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=rest)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    try:
        clip = load_clip(str(path))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert 2 <= len(clip) <= 6


def test_a_playlist_opens_nothing_else(tmp_path: Path) -> None:
    write_video(tmp_path / "made.ts", [over(f, (255, 255, 255)) for f in make_clip(5)], "libx264", "yuv420p")
    (tmp_path / "a.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'made.ts'}\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(UserError):
        load_clip(str(tmp_path / "a.m3u8"))


def test_files_are_closed_by_who_opened_them(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_video(path, [over(f, (255, 255, 255)) for f in make_clip(3)], "libx264", "yuv420p")
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:200])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        assert len(open_source(str(path), "key")) == 3
        with pytest.raises(UserError):
            open_source(str(tmp_path / "cut.mp4"), "key")
        gc.collect()
    assert not [str(warning.message) for warning in told if str(tmp_path) in str(warning.message)]
