"""Frames of film, decoded with PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import UserError
from ..paths import regular_file
from .frame_source import FrameSource
from .picture_file import check_pixels
from .video_color import MATRICES, UNSPECIFIED, is_wide, to_srgb, unknown_tags


class _Nameless:
    """A file without its name: FFmpeg cannot take names that are not UTF-8, and is not to follow what they suggest."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A PyAV container; it and its file are closed at the end of the block.

    Raises:
        UserError: PyAV is missing, or ``path`` is no regular file.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"{path}: reading a video needs PyAV. Install it (pip install av), or give a folder of frames."
        ) from error
    # A playlist must not open other files or addresses.
    options = {"protocol_whitelist": "none"}
    with (
        open(regular_file(path), "rb") as file,
        av.open(_Nameless(file), options=options, metadata_errors="replace") as container,
    ):
        yield container


def _decode_errors() -> tuple[type[Exception], ...]:
    """What PyAV raises for files that are damaged. A UserError is a ValueError: let it pass first."""
    import av

    return (av.FFmpegError, OSError, ValueError)


class VideoSource(FrameSource):
    """Frames of a video file; alpha is kept where the file has it (VP8/VP9, ProRes, PNG, ...).

    Of several streams the one that players show is taken, not a cover picture. Interlaced frames are deinterlaced, and
    colours converted to sRGB as the tags of the stream say.
    """

    kind = "video"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._pixel_aspect = 1.0  # width to height of a pixel, known after the first frame
        self._announced = 0.0  # how long the file says that it plays, in seconds
        self._transfer = self._primaries = UNSPECIFIED
        self._stream = self._best_stream()
        stamps, matrices, self._interlaced = [], set(), False
        for frame in self._decode():
            stamps.append(frame.time)
            matrices.add(int(frame.colorspace))
            self._interlaced |= bool(frame.interlaced_frame)
        self.names = [f"{i}" for i in range(len(stamps))]
        self._stamps = None if None in stamps else [stamp - stamps[0] for stamp in stamps]
        if not self.names:
            raise UserError(f"{path}: the video holds no frames. Encode it again.")
        strange = matrices - set(MATRICES)
        if strange:
            raise UserError(
                f"{path}: the colours are coded with matrix {min(strange)} of ITU-T H.273, which cannot be read. "
                "Encode it again as BT.709."
            )
        self._note_what_is_special()

    def _note_what_is_special(self) -> None:
        if self._interlaced:
            self.notes.append(f"{self.path}: the film is interlaced; it was deinterlaced.")
        if is_wide(self._transfer, self._primaries):
            self.notes.append(f"{self.path}: the film is HDR or has wide colours; they were converted to sRGB.")
        told = unknown_tags(self._transfer, self._primaries)
        if told:
            self.notes.append(
                f"{self.path}: {' and '.join(told)} of ITU-T H.273 are not understood; the colours may be off."
            )
        if self._stamps and 2 * self._stamps[-1] / len(self) + self._stamps[-1] < 0.9 * self._announced:
            self.notes.append(
                f"{self.path}: the frames end at {self._stamps[-1]:.2f} s, and the file says that it plays for "
                f"{self._announced:.2f} s. It may be incomplete."
            )

    def times(self) -> list[float] | None:
        """From the time stamps of the frames, so a variable frame rate is known."""
        return self._stamps

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether FFmpeg knows what the content of ``path`` is."""
        try:
            with _open(path):
                return True
        except UserError:
            raise
        except _decode_errors():
            return False

    def _unreadable(self, error: Exception) -> UserError:
        if isinstance(error, PermissionError):
            return UserError(f"{self.path} may not be read: change its permissions.")
        reason = getattr(error, "strerror", None) or error
        return UserError(
            f"{self.path}: the video cannot be decoded ({reason}). Check that the file is whole and plays, or give "
            "a folder of frames instead."
        )

    def _best_stream(self) -> int:
        """The film among the video streams: it moves, is no attached picture, is the default, and is large."""
        try:
            with _open(self.path) as container:
                streams = [s for s in container.streams.video if s.codec_context is not None]
                if not streams:
                    raise UserError(f"{self.path}: this file has no video in it. Give a video or a folder of frames.")
                packets = dict.fromkeys((s.index for s in streams), 0)
                for packet in container.demux(streams) if len(streams) > 1 else ():
                    packets[packet.stream_index] += packet.size > 0

                def rank(stream: Any) -> tuple[bool, bool, bool, int]:
                    size = stream.codec_context.width * stream.codec_context.height
                    attached, default = (bool(int(stream.disposition) & bit) for bit in (0x400, 0x1))
                    return not attached, packets[stream.index] > 1, default, size

                best = max(streams, key=rank)
                if not rank(best)[0]:
                    raise UserError(f"{self.path}: this file has no video in it, only a cover picture. Give a video.")
                check_pixels(self.path, best.codec_context.width, best.codec_context.height)
                return best.index
        except UserError:
            raise
        except _decode_errors() as error:
            raise self._unreadable(error) from error

    def _decode(self) -> Iterator:
        import av

        try:
            with _open(self.path) as container:
                stream = container.streams[self._stream]
                codec = stream.codec_context
                if container.duration and len(container.streams) == 1:
                    self._announced = container.duration / av.time_base
                self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
                self._transfer, self._primaries = int(codec.color_trc), int(codec.color_primaries)
                tags = {key.lower(): value for key, value in stream.metadata.items()}
                if codec.name in ("vp8", "vp9") and tags.get("alpha_mode") == "1":
                    # FFmpeg's own VP8/VP9 decoders drop the alpha layer; libvpx keeps it.
                    decoder = av.CodecContext.create("libvpx" if codec.name == "vp8" else "libvpx-vp9", "r")
                    decoder.extradata = codec.extradata
                    for packet in container.demux(stream):
                        yield from decoder.decode(packet)
                else:
                    stream.thread_type = "AUTO"
                    for frame in container.decode(stream):
                        self._transfer, self._primaries = int(codec.color_trc), int(codec.color_primaries)
                        yield frame
        except UserError:
            raise
        except _decode_errors() as error:
            raise self._unreadable(error) from error

    def _frames(self, wanted: set[int], as_mask: bool, broken: list[str]) -> Iterator[tuple[int, np.ndarray]]:
        last = max(wanted)
        decoded = self._decode()
        for index, frame in enumerate(_deinterlaced(decoded) if self._interlaced else decoded):
            if index in wanted:
                yield index, self._pixels(frame, as_mask)
            if index >= last:
                return

    def _pixels(self, frame: Any, as_mask: bool) -> np.ndarray:
        has_alpha = len(frame.format.components) in (2, 4) or frame.format.name == "pal8"
        width = max(1, round(frame.width * self._pixel_aspect))
        if is_wide(self._transfer, self._primaries) and not as_mask:
            deep = frame.to_ndarray(format="rgba64le" if has_alpha else "rgb48le", width=width)
            pixels = to_srgb(deep[..., :3] / np.float32(65535), self._transfer, self._primaries)
            if has_alpha:
                pixels = np.dstack([pixels, (deep[..., 3] >> 8).astype(np.uint8)])
        else:
            pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", width=width)
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        pixels = np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
        if not as_mask:
            return pixels
        opaque = not has_alpha or pixels[..., 3].min() == 255
        return pixels[..., :3].mean(-1).round().astype(np.uint8) if opaque else pixels[..., 3]


def _deinterlaced(frames: Iterator) -> Iterator:
    """One whole frame for each interlaced one (bwdif); the others as they are."""
    import av

    graph = None
    for frame in frames:
        if graph is None:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
            graph.configure()
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator:
    import av

    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
