"""Pictures from files: only the formats that are meant, of a size that fits into memory, with sRGB colours."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from ..errors import UserError
from ..paths import regular_file
from ..srgb import linear_to_srgb

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
ANIMATED_FORMATS = ("PNG", "WEBP", "GIF")
MOST_PIXELS = 64_000_000
SRGB_GAMMA = 0.45455  # what PNGs with sRGB colours state in gAMA
LEAST_APNG_FRAME = 54  # bytes: a control chunk and an empty data chunk
# What Pillow raises for files that are damaged. A UserError is a ValueError: let it pass first.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, AttributeError, TypeError, OverflowError,
    NotImplementedError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The picture at ``path`` as Pillow opens it, not yet decoded. The kind of file is found by its content.

    Raises:
        UserError: no regular file, no permission, or too many pixels. What is no picture raises Pillow's errors.
    """
    regular_file(path)
    # Truevision files have no signature, so only the name tells them.
    formats = ("TGA",) if path.suffix.lower() == ".tga" else FORMATS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
        try:
            image = Image.open(path, formats=formats)
        except PermissionError as error:
            raise UserError(f"{path} may not be read: change its permissions.") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"{path} has too many pixels: {MOST_PIXELS // 10**6} million are allowed.") from error
    with image:
        check_pixels(path, *image.size)
        yield image


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse what would take gigabytes once it is decoded."""
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path} is {width} x {height}: {MOST_PIXELS // 10**6} million pixels are allowed. Make it smaller."
        )


def frame_range(image: Image.Image, path: Path) -> range:
    """The numbers under which Pillow finds the frames of an opened file: one, where it is not an animation.

    The default picture of an APNG that is not part of its animation is left out, as players do.
    """
    if image.format not in ANIMATED_FORMATS:
        return range(1)
    count = getattr(image, "n_frames", 1)
    if image.format == "PNG" and count * LEAST_APNG_FRAME > path.stat().st_size:
        raise UserError(f"{path}: the file says that it holds {count} frames, and is too short for it: damaged.")
    hidden = count > 1 and image.format == "PNG" and image.info.get("default_image", False)
    return range(1 if hidden else 0, count)


def picture_pixels(image: Image.Image, path: Path) -> np.ndarray:
    """A decoded picture in sRGB, uint8 ``[H, W, 3]``, or ``[H, W, 4]`` when it has alpha.

    Colour profiles (ICC) and the gamma of PNGs are honoured.

    Raises:
        UserError: the values have no agreed meaning (floating point, 32 bits), or the profile cannot be used.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            kind = "floating-point" if image.mode == "F" else "32-bit"
            raise UserError(f"{path} holds {kind} values, which do not say what is white. Save it with 8 or 16 bits.")
        grey = (values.astype(np.int64) >> 8).astype(np.uint8)  # Pillow would clip it to white instead of scaling it
        return np.repeat(grey[..., None], 3, -1)
    gamma = image.info.get("gamma")
    if image.info.get("icc_profile"):
        image, gamma = _without_profile(image, path), None
    pixels = np.array(image.convert("RGBA" if has_alpha(image) else "RGB"))
    if gamma and image.format == "PNG" and "srgb" not in image.info and abs(gamma - SRGB_GAMMA) > 0.02:
        levels = linear_to_srgb((np.arange(256) / 255.0) ** (1.0 / gamma))
        pixels[..., :3] = np.round(levels * 255.0).astype(np.uint8)[pixels[..., :3]]
    return pixels


def mask_pixels(image: Image.Image, path: Path) -> np.ndarray:
    """A decoded picture as a mask, uint8 ``[H, W]``: its alpha if that hides anything, else its brightness."""
    if has_alpha(image):
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return alpha
    if image.mode == "P":
        rgb = np.asarray(image.convert("RGB"))
        if not np.ptp(rgb, axis=-1).any():
            return rgb[..., 0]
        return np.where(np.asarray(image) != 0, 255, 0).astype(np.uint8)  # label map: index 0 is the background
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * 255
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all() or values.min() < 0:
            raise UserError(f"{path}: a mask must not hold NaN, infinities or negative values.")
        return np.round(values * (255.0 / max(values.max(), 1.0))).astype(np.uint8)
    return np.asarray(image.convert("L"))


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def is_picture_file(path: Path) -> bool:
    """Whether the content of a file is one of the formats; it may be damaged all the same.

    Raises:
        UserError: see :func:`open_picture`.
    """
    try:
        with open_picture(path):
            return True
    except Image.UnidentifiedImageError:
        return False


def read_picture(path: Path) -> np.ndarray:
    """One file as uint8 ``[H, W, 3]``, or ``[H, W, 4]`` when it has alpha.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open_picture(path) as image:
            return picture_pixels(image, path)
    except UserError:
        raise
    except DECODE_ERRORS as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): make it again") from error


def _without_profile(image: Image.Image, path: Path) -> Image.Image:
    """The picture converted from its ICC profile to sRGB."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        space = profile.profile.xcolor_space.strip()
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return image
        is_grey = image.mode in ("L", "LA", "1")
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
        if mode is None or (image.mode == "CMYK") != (space == "CMYK") or (space == "GRAY" and not is_grey):
            raise ImageCms.PyCMSError(f"it is for {space}")
        alpha = image.convert("RGBA").getchannel("A") if has_alpha(image) else None
        target = ImageCms.createProfile("sRGB")
        out = ImageCms.profileToProfile(image.convert(mode), profile, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise UserError(f"{path}: the colour profile in it cannot be used ({error}). Save it with sRGB.") from error
    if alpha is not None:
        out.putalpha(alpha)
    return out
