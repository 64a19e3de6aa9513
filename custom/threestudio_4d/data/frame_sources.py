"""Where the frames of a clip (or of its masks) come from: a folder of pictures, an animated picture, or a video.

A source knows its frame count and names before it decodes anything, and then decodes only the frames asked for.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError
from ..paths import expand, regular_file
from .frame_source import FrameSource, name_some, natural_key
from .picture_file import (
    DECODE_ERRORS,
    FORMATS,
    frame_range,
    mask_pixels,
    open_picture,
    picture_pixels,
)
from .video_source import VideoSource

# What ``threestudio_4d.prepare`` and ``threestudio_4d.generate`` write beside the frames of a clip; not frames, and
# nothing to remark on.
SIDE_FILES = ("contact_sheet.png", "preview.mp4", "prepare.json", "clip.mp4", "clip.gif", "generate.json")
# Suffixes of what counts in a folder; a file that is given by itself is known by its content.
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".tga", ".gif"}
VIDEOS = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg", ".ogv", ".wmv", ".ts"}


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
                with open_picture(self.files[index]) as image:
                    frame = _pixels(image, self.files[index], as_mask)
            except UserError:
                raise
            except DECODE_ERRORS:
                broken.append(self.names[index])
                continue
            yield index, frame


def _pixels(image: Image.Image, path: Path, as_mask: bool) -> np.ndarray:
    """The current frame, turned as its EXIF data say."""
    return (mask_pixels if as_mask else picture_pixels)(ImageOps.exif_transpose(image), path)


class AnimationSource(FrameSource):
    """Frames of an animated GIF, WebP or PNG.

    Args:
        numbers: under which the file has the frames (:func:`frame_range`).
    """

    kind = "animation"

    def __init__(self, path: Path, numbers: range) -> None:
        super().__init__(path)
        self._numbers = numbers
        self.names = [f"{i}" for i in range(len(numbers))]

    def times(self) -> list[float] | None:
        """From the frames' durations; one of 0 is 0.1 s, as browsers show it."""
        durations = []
        try:
            with open_picture(self.path) as image:
                for number in self._numbers:
                    image.seek(number)
                    image.load()  # WebP tells a frame's duration only then
                    durations.append((image.info.get("duration") or 100) / 1000)
        except DECODE_ERRORS:
            return None  # reading the frames says what is wrong
        return np.cumsum([0.0, *durations[:-1]]).tolist()

    def _frames(self, wanted: set[int], as_mask: bool, broken: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        with open_picture(self.path) as image:
            for index in range(max(wanted) + 1):
                try:
                    image.seek(self._numbers[index])
                    if index in wanted:
                        frame = _pixels(image, self.path, as_mask)
                except UserError:
                    raise
                except DECODE_ERRORS:
                    broken.append(f"frame {index}")
                    return
                if index in wanted:
                    yield index, frame


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
    regular_file(place)
    return _open_file(place, key, allow_picture)


def _open_file(place: Path, key: str, allow_picture: bool) -> FrameSource:
    """What the content of a file is: an animation, one picture, else perhaps a film."""
    try:
        with open_picture(place) as image:
            numbers = frame_range(image, place)
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        if place.suffix.lower() in PICTURES:
            raise UserError(
                f"{place}: this picture cannot be read: it is damaged or something else. Formats that can be "
                f"read: {', '.join(FORMATS)}, TGA. Write it again."
            ) from error
        if place.suffix.lower() in VIDEOS or VideoSource.recognises(place):
            return VideoSource(place)
        raise UserError(
            f"{key}: {place} is not a kind of file that a clip can be read from. Give a folder of RGBA frames, a video "
            f"({', '.join(sorted(VIDEOS))} and others), or an animated GIF or WebP."
        ) from error
    except DECODE_ERRORS as error:
        raise UserError(f"{place}: this file cannot be read as a picture ({error}). Write it again.") from error
    if len(numbers) > 1:
        return AnimationSource(place, numbers)
    if not allow_picture:
        raise UserError(f"{key}: {place} is one picture. A clip needs 2 frames or more: give the folder with them.")
    source = FolderSource(place.parent, [place])
    source.path = place
    return source
