"""Pictures: formats, sizes, colours, and what is no regular file."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from clip_makers import make_clip, write_folder
from PIL import Image, ImageCms

from threestudio_4d.data.clip import load_clip
from threestudio_4d.data.frame_sources import open_source
from threestudio_4d.data.picture_file import read_picture
from threestudio_4d.errors import UserError
from threestudio_4d.paths import regular_file


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def insert_chunk(path: Path, kind: bytes, data: bytes) -> None:
    """After the header of a PNG."""
    content = path.read_bytes()
    path.write_bytes(content[:33] + chunk(kind, data) + content[33:])


def test_the_hidden_picture_of_an_apng_is_no_frame(tmp_path: Path) -> None:
    poster, *frames = map(Image.fromarray, make_clip(6))
    poster.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True)
    source = open_source(str(tmp_path / "a.png"), "key")
    assert len(source) == 5 and len(source.times()) == 5
    assert (source.read([0], lambda frame: frame)[0] == np.asarray(frames[0])).all()


def test_an_apng_that_claims_2_to_the_31_frames_is_refused(tmp_path: Path) -> None:
    Image.fromarray(make_clip(2)[0]).save(tmp_path / "a.png")
    insert_chunk(tmp_path / "a.png", b"acTL", struct.pack(">II", 2**31 - 1, 0))
    with pytest.raises(UserError, match="says that it holds 21474836.. frames"):
        load_clip(str(tmp_path / "a.png"))


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 14800, 10000, 8, 6, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(UserError, match="14800 x 10000: 64 million pixels are allowed"):
        read_picture(tmp_path / "a.png")


def test_floating_point_is_refused(tmp_path: Path) -> None:
    for k in range(2):
        Image.fromarray(np.random.default_rng(k).random((16, 16), np.float32)).save(tmp_path / f"{k}.tiff")
    with pytest.raises(UserError, match="0.tiff holds floating-point values"):
        load_clip(str(tmp_path))


def test_an_eps_named_png_starts_nothing(tmp_path: Path, monkeypatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was started"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="this picture cannot be read"):
        open_source(str(tmp_path / "a.png"), "key")


def linear_profile() -> bytes:
    """An RGB profile with sRGB's primaries and gamma 1: sRGB's own, with its curves replaced."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    for k in range(count):
        name, offset, _ = struct.unpack(">4sII", data[132 + 12 * k : 144 + 12 * k])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + 12] = b"curv" + bytes(8)  # a curve without entries is the identity
    return bytes(data).replace("sRGB".encode("utf-16-be"), "line".encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_profiles_are_honoured(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (8, 8), (55, 128, 255, 99)).convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=linear_profile())
    pixel = read_picture(tmp_path / "a.png")[0, 0]
    assert np.abs(pixel[:3].astype(int) - [128, 188, 255]).max() <= 1
    assert mode == "RGB" or pixel[3] == 99


def test_the_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    assert (read_picture(tmp_path / "a.png") == pixels).all()


def test_a_broken_profile_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", icc_profile=b"nonsense" * 20)
    with pytest.raises(UserError, match="colour profile"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("gamma, expected", [(100000, 188), (45455, 128)])
def test_the_gamma_of_a_png_is_honoured(tmp_path: Path, gamma: int, expected: int) -> None:
    Image.new("RGB", (8, 8), (128, 128, 128)).save(tmp_path / "a.png")
    insert_chunk(tmp_path / "a.png", b"gAMA", struct.pack(">I", gamma))
    assert read_picture(tmp_path / "a.png")[0, 0].tolist() == [expected] * 3


@pytest.mark.parametrize("name", ["clip.mp4", "clip.png", "clip"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for read in (regular_file, read_picture, lambda path: load_clip(str(path))):
        with pytest.raises(UserError, match="a pipe, a socket or a device"):
            read(tmp_path / name)


def test_a_pipe_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path, make_clip(3))
    os.mkfifo(tmp_path / "3.png")
    assert load_clip(str(tmp_path)).names == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_damaged_bytes_are_read_or_explained(tmp_path: Path, format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(make_clip(2)[0][..., :3]).save(buffer, format)
    generator = np.random.default_rng(0)
    for k in range(20):
        data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        data[generator.integers(0, len(data), 8)] = generator.integers(0, 256, 8)
        path = tmp_path / f"{k}.{format.lower()}"
        path.write_bytes(data[: generator.integers(1, len(data) + 1)].tobytes())
        try:
            assert read_picture(path).dtype == np.uint8
        except UserError as error:
            assert str(path) in str(error)
