"""From a video, an animated picture, a folder of pictures or one picture to a clean RGBA clip."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..atomic import atomic_folder, write_text
from ..data.clip import limit_size, premultiply, resize_premultiplied, unpremultiply
from ..data.frame_source import FrameSource, name_some, natural_key
from ..data.frame_sources import FolderSource, open_source
from ..data.framing import Window, border_warning, common_box, cut_window, square_window, window_around
from ..errors import UserError
from ..paths import expand
from ..results.pictures import write_png
from .background import Cutout, choose_method, looks, remove_background
from .choice import Choice, choose
from .edges import foreground_colors
from .folder import check_target
from .interpolate import interpolate_clip, load_interpolator
from .masks import check_masks, fill_pinholes, keep_largest
from .progress import Steps
from .settings import Settings
from .sheet import contact_sheet, sheet_columns, source_tile, write_preview

MAX_SIDE = 1920  # longer sides are shrunk while the frames are read


@dataclass
class Prepared:
    """What was made: ``count`` frames in ``out``. ``record`` is what ``prepare.json`` holds."""

    out: Path
    count: int = 0
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def prepare(inputs: list[str], out: str | Path, settings: Settings | None = None) -> Prepared:
    """Make a clean RGBA clip of ``inputs`` in the folder ``out``: ``0.png``, ``1.png``, ... with straight alpha.

    Beside the frames stand ``contact_sheet.png``, ``preview.mp4`` and ``prepare.json``. The folder appears when all of
    it is complete.

    Args:
        inputs: one video, animated picture, folder, pattern or picture; or several pictures, which are ordered by the
            numbers in their names.

    Raises:
        UserError: for everything that stands in the way; nothing has been written then.
    """
    settings = settings or Settings()
    settings.check()
    out = expand(out)
    check_target(out, [expand(place) for place in inputs], settings.overwrite)
    with Steps(settings.quiet) as steps:
        return _Preparation(inputs, out, settings, steps).run()


def open_input(inputs: list[str]) -> FrameSource:
    """The source of frames of the command's INPUT.

    Raises:
        UserError: nothing there, not a kind of file that can be read, damaged, or several inputs that are no pictures.
    """
    if len(inputs) == 1:
        return open_source(inputs[0], "INPUT", allow_picture=True)
    files = [expand(place) for place in inputs]
    absent = [str(place) for place in files if not place.is_file()]
    if absent:
        raise UserError(f"INPUT: several inputs must all be pictures, and there is no file {name_some(absent)}.")
    source = FolderSource(files[0].parent, sorted(files, key=lambda place: natural_key(place.name)))
    if len(source) < len(files):
        raise UserError(f"INPUT: several inputs must all be pictures of one sequence. {' '.join(source.notes)}")
    return source


class _Preparation:
    """One call of :func:`prepare`; its methods are the steps in their order."""

    def __init__(self, inputs: list[str], out: Path, settings: Settings, steps: Steps) -> None:
        self.inputs, self.settings, self.steps = inputs, settings, steps
        self.result = Prepared(out)
        self.record: dict[str, Any] = {}

    def run(self) -> Prepared:
        with self.steps.bar("opening", 1):
            source = open_input(self.inputs)
        self.path = str(source.path)
        choice = self.choose(source)
        if self.settings.interpolate > 1 and len(choice.indices) > 1:  # now, not after minutes of a network's work
            self.interpolator = load_interpolator()
        self.names = [source.names[i] for i in choice.indices]
        frames = self.read(source, choice)
        cutout = self.remove_background(frames)
        self.clean(cutout)
        rgba = [np.dstack([c, to_level(a)]) for c, a in zip(cutout.colors, cutout.alphas, strict=True)]
        window = self.window(rgba)
        tiles = [source_tile(frames[k][..., :3], window) for k in sheet_columns(len(frames))]
        clip = self.crop(rgba, window)
        clip, factor = self.extend(clip)
        self.write(source, choice, clip, factor, tiles)
        return self.result

    def choose(self, source: FrameSource) -> Choice:
        settings = self.settings
        with self.steps.bar("choosing frames", len(source) if settings.drop_duplicates else 1) as advance:
            choice = choose(
                source,
                frames=settings.frames,
                stride=settings.stride,
                start=settings.start,
                end=settings.end,
                fps=settings.fps,
                loop=settings.loop,
                drop_duplicates=settings.drop_duplicates,
                progress=advance,
            )
        self.result.notes += [*source.notes, *choice.notes]
        return choice

    def read(self, source: FrameSource, choice: Choice) -> list[np.ndarray]:
        """Frames, uint8 ``[H, W, 3|4]``, an entry for each chosen index."""
        with self.steps.bar("reading", len(set(choice.indices))) as advance:

            def shrink(frame: np.ndarray) -> np.ndarray:
                advance()
                self.record["source_size"] = [frame.shape[1], frame.shape[0]]
                return limit_size(frame, MAX_SIDE)

            return source.read_all(choice.indices, shrink)

    def remove_background(self, frames: list[np.ndarray]) -> Cutout:
        method = self.settings.background
        if method == "auto":
            method = choose_method(frames, self.path, self.settings.key_color)
        with self.steps.bar(f"background: {method}", len(frames) * looks(method)) as advance:
            cutout = remove_background(frames, method, self.path, self.settings.key_color, advance)
        self.record["background"] = {"method": method, **cutout.details}
        return cutout

    def clean(self, cutout: Cutout) -> None:
        """Clean alphas and colours in place, and check that there is one object in every frame."""
        if cutout.method == "none":
            self.result.warnings.append(
                f"{self.path}: the background was left in (--background none). Training on a clip refuses it so."
            )
            return
        check_masks(cutout.alphas, self.names, self.path, cutout.method)
        computed = cutout.method != "alpha"
        settings, done = self.settings, {}
        if computed if settings.largest_part is None else settings.largest_part:
            cutout.alphas, done["parts_removed"] = keep_largest(cutout.alphas)
        if computed if settings.fill_holes is None else settings.fill_holes:
            filled = [fill_pinholes(alpha) for alpha in cutout.alphas]
            cutout.alphas = [alpha for alpha, _ in filled]
            done["holes_filled"] = sum(count for _, count in filled)
        if cutout.mixed if settings.clean_edges is None else settings.clean_edges:
            with self.steps.bar("edge colours", len(cutout.colors)) as advance:
                for k, (color, alpha) in enumerate(zip(cutout.colors, cutout.alphas, strict=True)):
                    cutout.colors[k] = foreground_colors(color, alpha)
                    advance()
            done["edges_cleaned"] = True
        self.record["cleaning"] = done

    def window(self, rgba: list[np.ndarray]) -> Window:
        """The square that is cut out of every frame."""
        height, width = rgba[0].shape[:2]
        settings, removed = self.settings, self.record["background"]["method"] != "none"
        if removed:
            cut = border_warning(rgba, self.names, self.path)
            if cut:
                self.result.warnings.append(cut)
        window = window_around(common_box(rgba), settings.fill) if settings.crop and removed else None
        window = window or square_window(height, width)
        if removed and window.side < settings.size / 2:
            self.result.warnings.append(
                f"{self.path}: the crop around the object is {window.side} pixels wide and is enlarged to "
                f"{settings.size}, which adds no detail. A smaller --size says so honestly."
            )
        self.record["read_size"] = [width, height]
        self.record["crop"] = window._asdict()
        return window

    def crop(self, rgba: list[np.ndarray], window: Window) -> list[np.ndarray]:
        """Frames of the final size, uint8 ``[size, size, 4]``, resized with premultiplied colours."""
        size = self.settings.size
        with self.steps.bar("cropping", len(rgba)) as advance:
            out = []
            for frame in rgba:
                values = premultiply(cut_window(frame, window))
                out.append(unpremultiply(resize_premultiplied(values, size, size)))
                advance()
        return out

    def extend(self, clip: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
        """Repeat a single picture, or draw frames between those of a clip. Returns also by how much it is denser."""
        settings = self.settings
        if len(clip) == 1:
            if settings.repeat > 1:
                self.result.notes.append(
                    f"{self.path}: one picture, written {settings.repeat} times as a still clip (--repeat)."
                )
            return clip * settings.repeat, 1
        if settings.interpolate == 1:
            return clip, 1
        with self.steps.bar("frames between", len(clip) if settings.loop else len(clip) - 1) as advance:
            denser = interpolate_clip(clip, settings.interpolate, self.interpolator, settings.loop, advance)
        return denser, settings.interpolate

    def write(
        self, source: FrameSource, choice: Choice, clip: list[np.ndarray], factor: int, tiles: list[np.ndarray]
    ) -> None:
        columns = sheet_columns(len(choice.indices))
        fps = choice.fps * factor
        self.result.count = len(clip)
        self.result.record = {
            "made_by": f"threestudio_4d.prepare {__version__}",
            "input": self.inputs,
            "kind": source.kind,
            "settings": asdict(self.settings),
            **self.record,
            "frames": len(clip),
            "fps": round(fps, 3),
            "loop": self.settings.loop,
            "source_frames": [
                {"name": name, "time": None if choice.times is None else round(choice.times[k], 4)}
                for k, name in enumerate(self.names)
            ],
            "notes": self.result.notes,
            "warnings": self.result.warnings,
        }
        with atomic_folder(self.result.out) as folder, self.steps.bar("writing", len(clip)) as advance:
            for k, frame in enumerate(clip):
                write_png(str(folder / f"{k}.png"), frame)
                advance()
            shown = [clip[k * factor] for k in columns]
            write_png(str(folder / "contact_sheet.png"), contact_sheet(tiles, shown, [self.names[k] for k in columns]))
            write_preview(folder / "preview.mp4", clip, fps)
            write_text(folder / "prepare.json", json.dumps(self.result.record, indent=2) + "\n")


def to_level(alpha: np.ndarray) -> np.ndarray:
    """float in [0, 1] to uint8."""
    return np.round(alpha * 255.0).astype(np.uint8)
