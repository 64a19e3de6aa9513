"""Where the frames of a clip (or of its masks) come from: a folder of pictures, an animated picture, or a video.

A source knows its frame count and names before it decodes anything, and then decodes only the frames asked for.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError
from ..paths import expand

# What ``threestudio_4d.prepare`` and ``threestudio_4d.generate`` write beside the frames of a clip; not frames, and
# nothing to remark on.
SIDE_FILES = ("contact_sheet.png", "preview.mp4", "prepare.json", "clip.mp4", "clip.gif", "generate.json")
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".tga", ".gif"}
ANIMATIONS = {".gif", ".webp", ".apng", ".png"}
VIDEOS = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg", ".ogv", ".wmv", ".ts"}
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

Transform = Callable[[np.ndarray], np.ndarray]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorting key that reads runs of digits as numbers: ``2.png`` comes before ``10.png``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.findall(r"\d+|\D+", name)]


def name_some(names: Iterable[str], most: int = 5) -> str:
    """``a, b, c, d, e and 7 more``."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class FrameSource:
    """Frames in order. ``names`` has one entry a frame; ``notes`` says what was passed over and why."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def times(self) -> list[float] | None:
        """When each frame is shown, in seconds after the first, not decreasing; None where the source does not say."""
        return None

    def read(self, indices: list[int], transform: Transform, as_mask: bool = False) -> list[np.ndarray]:
        """Decode the frames at ``indices`` (ascending) and pass each through ``transform``.

        A frame is uint8 ``[H, W, 3]``, or ``[H, W, 4]`` where the file has an alpha channel; with ``as_mask`` it is
        uint8 ``[H, W]``. All frames must have one size, else :class:`UserError`.
        """
        wanted, out, shapes, broken = set(indices), [], {}, []
        for index, frame in self._frames(wanted, as_mask, broken):
            shapes.setdefault(frame.shape[:2], []).append(self.names[index])
            if not broken:
                out.append(transform(frame))
        if broken and self.path.is_file():
            what = "picture" if self.kind == "folder" else f"{self.kind} ({name_some(broken)})"
            raise UserError(f"{self.path}: this {what} cannot be read. It is damaged or incomplete: write it again.")
        if broken:
            raise UserError(
                f"{self.path}: {len(broken)} of {len(wanted)} pictures cannot be read: {name_some(broken)}. "
                "Write them again or take them out of the folder."
            )
        if len(shapes) > 1:
            counted = sorted(shapes.items(), key=lambda item: -len(item[1]))
            told = "; ".join(f"{w}x{h}: {name_some(names, 3)}" for (h, w), names in counted)
            raise UserError(
                f"{self.path}: the frames have different sizes ({told}). All frames of a clip must have one size: "
                "resize them alike, or take the stray pictures out."
            )
        return out

    def _frames(self, wanted: set[int], as_mask: bool, broken: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        raise NotImplementedError


def _picture(image, as_mask: bool) -> np.ndarray:
    """A decoded PIL picture as uint8: ``[H, W, 3]``, ``[H, W, 4]`` when it has alpha, or ``[H, W]`` as a mask."""
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not as_mask:
        if image.mode.startswith("I"):  # 16 bit grey: Pillow would clip it to white instead of scaling it
            return np.repeat((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)[..., None], 3, -1)
        return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    if has_alpha:
        rgba = np.asarray(image.convert("RGBA"))
        if rgba[..., 3].min() < 255:
            return rgba[..., 3]
    if image.mode == "P":
        rgb = np.asarray(image.convert("RGB"))
        if not np.ptp(rgb, axis=-1).any():
            return rgb[..., 0]
        return np.where(np.asarray(image) != 0, 255, 0).astype(np.uint8)  # label map: index 0 is the background
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8) * 255
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        return np.round(values * (255.0 / max(values.max(), 1.0))).astype(np.uint8)
    return np.asarray(image.convert("L"))


def _forbidden(path: Path) -> UserError:
    """Not damage: permissions."""
    return UserError(f"{path} may not be read: change its permissions.")


def read_picture(path: Path) -> np.ndarray:
    """One file as uint8 ``[H, W, 3]``, or ``[H, W, 4]`` when it has alpha.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return _picture(image, as_mask=False)
    except PermissionError as error:
        raise _forbidden(path) from error
    except DECODE_ERRORS as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): make it again") from error


class FolderSource(FrameSource):
    """Pictures of a folder (or of a glob pattern) in natural order of their names."""

    def __init__(self, path: Path, files: list[Path] | None = None) -> None:
        super().__init__(path)
        entries = sorted(path.iterdir(), key=lambda p: natural_key(p.name)) if files is None else files
        entries = [p for p in entries if not p.name.startswith(".") and p.name not in SIDE_FILES]
        pictures = [p for p in entries if p.is_file() and p.suffix.lower() in PICTURES]
        others = [p.name for p in entries if p not in set(pictures)]
        if not pictures:
            self._raise_empty(entries)
        if others:
            self.notes.append(f"{path}: ignored what is not a picture: {name_some(others)}.")
        self.files = self._one_sequence(pictures)
        self.names = [p.name for p in self.files]

    def _raise_empty(self, entries: list[Path]) -> None:
        found = f"it holds {name_some([p.name for p in entries])}" if entries else "it is empty"
        videos = [p for p in entries if p.suffix.lower() in VIDEOS]
        hint = f" To use the video, give its path: {videos[0]}." if videos else ""
        inner = [p for p in entries if p.is_dir()]
        if inner:
            hint += f" If the frames are in a folder inside, give that: {inner[0]}."
        raise UserError(
            f"{self.path}: no pictures in this folder ({found}). A clip is a folder of RGBA frames "
            f"(0.png, 1.png, ...), a video file, or an animated GIF or WebP.{hint}"
        )

    def _one_sequence(self, pictures: list[Path]) -> list[Path]:
        numbered = [p for p in pictures if re.search(r"\d", p.stem)]
        if 2 <= len(numbered) < len(pictures):
            loose = [p.name for p in pictures if p not in set(numbered)]
            self.notes.append(f"{self.path}: ignored pictures whose names have no number: {name_some(loose)}.")
            pictures = numbered
        series: dict[str, list[Path]] = {}
        for p in pictures:
            series.setdefault(re.sub(r"\d+", "#", p.name), []).append(p)
        numbers = [tuple(re.findall(r"\d+", p.stem)) for p in pictures]
        if len(series) > 1 and numbers[0] and len(set(numbers)) < len(numbers):
            told = ", ".join(f"{name} ({len(files)})" for name, files in series.items())
            raise UserError(
                f"{self.path}: this folder mixes several sequences of pictures: {told}. Put one sequence alone in a "
                f"folder, or name it with a pattern, such as {self.path / next(iter(series)).replace('#', '*')}."
            )
        if len(series) == 1 and len(numbers[0]) == 1:
            have = [int(n[0]) for n in numbers]
            missing = sorted(set(range(have[0], have[-1] + 1)) - set(have)) if have[-1] - have[0] < 100000 else []
            if missing and len(missing) < len(have):
                self.notes.append(
                    f"{self.path}: the numbering leaves out {name_some(map(str, missing))}; "
                    "the frames are taken as evenly spaced."
                )
        return pictures

    def _frames(self, wanted: set[int], as_mask: bool, broken: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        for index in sorted(wanted):
            try:
                with Image.open(self.files[index]) as image:
                    frame = _picture(ImageOps.exif_transpose(image), as_mask)
            except PermissionError as error:
                raise _forbidden(self.files[index]) from error
            except DECODE_ERRORS:
                broken.append(self.names[index])
                continue
            yield index, frame


class AnimationSource(FrameSource):
    """Frames of an animated GIF, WebP or PNG."""

    kind = "animation"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with Image.open(path) as image:
                count = getattr(image, "n_frames", 1)
        except PermissionError as error:
            raise _forbidden(path) from error
        except DECODE_ERRORS as error:
            raise UserError(f"{path}: this file cannot be read as a picture ({error}). Write it again.") from error
        self.names = [f"{i}" for i in range(count)]

    def times(self) -> list[float] | None:
        """From the frames' durations; one of 0 is 0.1 s, as browsers show it."""
        durations = []
        try:
            with Image.open(self.path) as image:
                for index in range(len(self)):
                    image.seek(index)
                    image.load()  # WebP tells a frame's duration only then
                    durations.append((image.info.get("duration") or 100) / 1000)
        except DECODE_ERRORS:
            return None  # reading the frames says what is wrong
        return np.cumsum([0.0, *durations[:-1]]).tolist()

    def _frames(self, wanted: set[int], as_mask: bool, broken: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        with Image.open(self.path) as image:
            for index in range(max(wanted) + 1):
                try:
                    image.seek(index)
                    if index in wanted:
                        frame = _picture(ImageOps.exif_transpose(image), as_mask)
                except DECODE_ERRORS:
                    broken.append(f"frame {index}")
                    return
                if index in wanted:
                    yield index, frame


class VideoSource(FrameSource):
    """Frames of a video file, decoded with PyAV; alpha is kept where the file has it (VP8/VP9, ProRes, PNG, ...)."""

    kind = "video"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._pixel_aspect = 1.0  # width to height of a pixel, known after the first frame
        self._announced = 0.0  # how long the file says that it plays, in seconds
        stamps = [frame.time for frame in self._decode()]
        self.names = [f"{i}" for i in range(len(stamps))]
        self._stamps = None if None in stamps else [stamp - stamps[0] for stamp in stamps]
        if not self.names:
            raise UserError(f"{path}: the video holds no frames. Encode it again.")
        if self._stamps and 2 * self._stamps[-1] / len(self) + self._stamps[-1] < 0.9 * self._announced:
            self.notes.append(
                f"{path}: the frames end at {self._stamps[-1]:.2f} s, and the file says that it plays for "
                f"{self._announced:.2f} s. It may be incomplete."
            )

    def times(self) -> list[float] | None:
        """From the time stamps of the frames, so a variable frame rate is known."""
        return self._stamps

    def _decode(self) -> Iterator:
        try:
            import av
        except ImportError as error:
            raise UserError(
                f"{self.path}: reading a video needs PyAV. Install it (pip install av), or give a folder of frames."
            ) from error
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise UserError(f"{self.path}: this file has no video in it. Give a video or a folder of frames.")
                stream = container.streams.video[0]
                codec = stream.codec_context.name
                if container.duration and len(container.streams) == 1:
                    self._announced = container.duration / av.time_base
                self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
                tags = {key.lower(): value for key, value in stream.metadata.items()}
                if codec in ("vp8", "vp9") and tags.get("alpha_mode") == "1":
                    # FFmpeg's own VP8/VP9 decoders drop the alpha layer; libvpx keeps it.
                    decoder = av.CodecContext.create("libvpx" if codec == "vp8" else "libvpx-vp9", "r")
                    decoder.extradata = stream.codec_context.extradata
                    for packet in container.demux(stream):
                        yield from decoder.decode(packet)
                else:
                    stream.thread_type = "AUTO"
                    yield from container.decode(stream)
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"{self.path}: the video cannot be decoded ({error}). Check that the file is whole and plays, or give "
                "a folder of frames instead."
            ) from error

    def _frames(self, wanted: set[int], as_mask: bool, broken: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        last = max(wanted)
        for index, frame in enumerate(self._decode()):
            if index in wanted:
                has_alpha = len(frame.format.components) in (2, 4) or frame.format.name == "pal8"
                width = max(1, round(frame.width * self._pixel_aspect))
                pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", width=width)
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                pixels = np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
                if as_mask:
                    opaque = not has_alpha or pixels[..., 3].min() == 255
                    pixels = pixels[..., :3].mean(-1).round().astype(np.uint8) if opaque else pixels[..., 3]
                yield index, pixels
            if index >= last:
                return


def open_source(path: str, key: str, allow_picture: bool = False) -> FrameSource:
    """Find out what ``path`` is and open it; ``key`` is the configuration key that errors name.

    ``path`` may be a folder, a file, or a glob pattern of pictures (``frames/*_rgba.png``); with ``allow_picture``
    also one picture, a source of one frame.
    """
    if not path:
        raise UserError(
            f"{key} is empty. Give the path of a clip: a folder of RGBA frames, a video file, or an animated GIF or "
            "WebP."
        )
    place = expand(path)
    if not os.path.exists(place):  # where Path.exists() raises for names that are too long
        matches = [Path(p) for p in glob.glob(str(place))] if glob.has_magic(str(place)) else []
        if matches:
            return FolderSource(place.parent, sorted(matches, key=lambda p: natural_key(p.name)))
        beside = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        near = difflib.get_close_matches(place.name, beside, n=1)
        hint = f" Did you mean {place.parent / near[0]}?" if near else ""
        raise UserError(f"{key}: {place} does not exist (looked from {Path.cwd()}).{hint}")
    if place.is_dir():
        return FolderSource(place)
    suffix = place.suffix.lower()
    if suffix in ANIMATIONS:
        return AnimationSource(place)
    if suffix in VIDEOS:
        return VideoSource(place)
    if suffix in PICTURES and allow_picture:
        source = FolderSource(place.parent, [place])
        source.path = place
        return source
    if suffix in PICTURES:
        raise UserError(f"{key}: {place} is one picture. A clip needs 2 frames or more: give the folder with them.")
    raise UserError(
        f"{key}: {place} is not a kind of file that a clip can be read from. Give a folder of RGBA frames, a video "
        f"({', '.join(sorted(VIDEOS))}), or an animated GIF or WebP."
    )
