"""A clip: the frames of one moving object with alpha, checked, square, and ready to be resized.

``load_clip`` reads any input that :mod:`frame_sources` opens, finds the alpha, checks what can be checked before the
first training step, and raises :class:`UserError` with what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import UserError
from .frame_choice import choose_frames
from .frame_source import FrameSource, name_some, natural_key
from .frame_sources import open_source
from .framing import border_warning, common_box, cut_window, square_window, window_around
from .keying import key_out, parse_color, plain_background

_HOW_TO_GET_ALPHA = (
    "Give RGBA frames (a background remover such as rembg or Segment Anything makes them), a video with alpha (WebM "
    "VP9, ProRes 4444), or masks with data.mask_path"
)


@dataclass
class Clip:
    """Frames of one clip.

    Attributes:
        frames: uint8 ``[N, S, S, 4]``, RGBA with straight alpha, padded to a square with transparent pixels.
        names: where each frame came from: a file name, or a frame number of a video.
        notes: what was done on the way and how to override it (one sentence each).
        warnings: what may spoil the result.
    """

    frames: np.ndarray
    names: list[str]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frames)

    def resized(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames on white and their soft alpha at ``size`` pixels: float32 ``[N, size, size, 3]`` and ``[..., 1]``.

        Colours are premultiplied before they are averaged, so that what lies hidden under alpha 0 never shows.
        """
        small = np.stack([resize_premultiplied(premultiply(frame), size, size) for frame in self.frames])
        rgb, alpha = small[..., :3], small[..., 3:]
        return np.clip(rgb + (1.0 - alpha), 0.0, 1.0), alpha


def premultiply(frame: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 4]`` with straight alpha to float32 in [0, 1] with colours multiplied by alpha."""
    values = frame.astype(np.float32) / 255.0
    values[..., :3] *= values[..., 3:]
    return values


def unpremultiply(values: np.ndarray) -> np.ndarray:
    """The inverse of :func:`premultiply`."""
    alpha = values[..., 3:]
    rgb = np.where(alpha > 1e-6, values[..., :3] / np.maximum(alpha, 1e-6), 0.0)
    return np.clip(np.round(np.concatenate([rgb, alpha], -1) * 255.0), 0, 255).astype(np.uint8)


def resize_premultiplied(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize float ``[H, W, C]``: area averages downwards, bilinear upwards."""
    import cv2

    h, w = values.shape[:2]
    if (h, w) == (height, width):
        return values
    shrinks = height < h or width < w
    out = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return out.reshape(height, width, values.shape[2])


def limit_size(frame: np.ndarray, max_size: int) -> np.ndarray:
    """Shrink a frame or mask whose longer side is above ``max_size``, keeping its shape."""
    h, w = frame.shape[:2]
    if max(h, w) <= max_size:
        return frame
    scale = max_size / max(h, w)
    height, width = max(1, round(h * scale)), max(1, round(w * scale))
    if frame.ndim == 3 and frame.shape[2] == 4:
        return unpremultiply(resize_premultiplied(premultiply(frame), height, width))
    out = resize_premultiplied(frame.reshape(h, w, -1).astype(np.float32), height, width)
    return np.round(out).astype(np.uint8).reshape((height, width) + frame.shape[2:])


def load_clip(
    path: str,
    mask_path: str | None = None,
    *,
    frame_stride: int = 1,
    num_frames: int | None = None,
    max_frames: int = 128,
    max_size: int = 1024,
    loop: bool = False,
    key_color: str = "auto",
    recenter: bool = False,
    recenter_fill: float = 0.7,
) -> Clip:
    """Load and check a clip.

    Args:
        path: folder of frames, pattern of frames, video file, or animated GIF, WebP or PNG.
        mask_path: the same kinds, holding one mask a frame (white or opaque = object). Takes the place of any alpha.
        frame_stride, num_frames, max_frames, loop: see :func:`choose_frames`.
        max_size: frames with a longer side than this are shrunk while they are read.
        key_color: what to do when there is neither alpha nor masks. ``auto``: for videos and animated pictures a plain
            background is found at the border and keyed out, anything else is an error. ``none``: always an error. A
            colour (``white``, ``black``, ``green``, ``blue``, ``#rrggbb``): key that colour out, in folders too.
        recenter: crop the whole clip with one square so that the object's box over all frames is centred and fills
            ``recenter_fill`` of the side.

    Raises:
        UserError: for everything that makes the clip unusable; the message names the files and says what to do.
    """
    source = open_source(path, "data.image_seq_path")
    masks = open_source(mask_path, "data.mask_path") if mask_path else None
    indices, note = choose_frames(len(source), frame_stride, num_frames, max_frames, loop, source.times())
    if len(indices) < 2:
        raise UserError(
            f"{path}: a clip needs 2 frames or more, and this gives {len(indices)} (the input has {len(source)}, "
            f"data.frame_stride is {frame_stride}, data.num_frames is {num_frames})."
        )
    clip = Clip(np.empty(0), [source.names[i] for i in indices], list(source.notes))
    if note:
        clip.notes.append(note)
    frames = source.read_all(indices, lambda frame: limit_size(frame, max_size))
    if masks is not None:
        clip.notes.extend(masks.notes)
        frames = _apply_masks(frames, source, masks, indices, max_size)
    elif all(is_opaque(frame) for frame in frames):
        frames = _key_or_explain(frames, source, key_color, clip)
    _check_alpha(frames, clip, path)
    _check_extent(frames, clip, path, recenter)
    window = window_around(common_box(frames), recenter_fill) if recenter else square_window(*frames[0].shape[:2])
    clip.frames = np.stack([cut_window(frame, window) for frame in frames])
    return clip


def is_opaque(frame: np.ndarray) -> bool:
    """Whether a frame (uint8 ``[H, W, 3|4]``) hides nothing: no alpha channel, or one that is 255 everywhere."""
    return frame.shape[2] == 3 or int(frame[..., 3].min()) == 255


def _key_or_explain(frames: list[np.ndarray], source: FrameSource, key_color: str, clip: Clip) -> list[np.ndarray]:
    """Key a plain background out, or say why the frames cannot be used as they are."""
    key = key_color.lower()
    color = None if key in ("auto", "none") else parse_color(key_color, "data.key_color")
    background = plain_background(frames, color) if color is not None or key == "auto" else None
    is_folder = source.kind == "folder"
    if background is None or (is_folder and color is None):
        has_channel = any(frame.shape[2] == 4 for frame in frames)
        what = "an alpha channel that is opaque everywhere" if has_channel else "no alpha channel"
        which = f"{name_some(clip.names)} have {what}" if is_folder else f"the file has {what}"
        hint = ". If its background is one plain colour, data.key_color=black (or another colour) keys that out."
        if background is not None:
            rgb = "".join(f"{round(c):02x}" for c in background.color)
            hint = f", or, as the background is one plain colour, key it out with data.key_color='#{rgb}'."
        elif not is_folder and key == "auto":
            hint = ". (A background of one plain colour is keyed out by itself; this one is not plain.)"
        raise UserError(
            f"{source.path}: {which}, so the object cannot be told from its background. {_HOW_TO_GET_ALPHA}{hint}"
        )
    clip.notes.append(
        f"{source.path}: no alpha, so the plain background (RGB {', '.join(f'{c:.0f}' for c in background.color)}) was "
        "keyed out. If the silhouette is wrong, give masks with data.mask_path, another colour with data.key_color, or "
        "RGBA frames; data.key_color=none forbids keying."
    )
    return [key_out(frame, background) for frame in frames]


def _apply_masks(
    frames: list[np.ndarray], source: FrameSource, masks: FrameSource, indices: list[int], max_size: int
) -> list[np.ndarray]:
    if len(masks) != len(source):
        raise UserError(
            f"{masks.path} has {len(masks)} masks and {source.path} has {len(source)} frames. data.mask_path must hold "
            "one mask for each frame, in the same order."
        )
    if source.kind == masks.kind == "folder":
        for frame_name, mask_name in zip(source.names, masks.names, strict=True):
            ours, theirs = (_numbers(name) for name in (frame_name, mask_name))
            if ours and theirs and ours[-1] != theirs[-1]:
                raise UserError(
                    f"{masks.path}: masks and frames do not pair up: frame {frame_name} meets mask {mask_name}. "
                    "Number both alike."
                )
    out = []
    for index, frame, mask in zip(
        indices, frames, masks.read_all(indices, lambda m: limit_size(m, max_size), as_mask=True), strict=True
    ):
        h, w = frame.shape[:2]
        if mask.max() == 1:
            mask = mask * 255
        if abs(mask.shape[1] / mask.shape[0] - w / h) > 0.02 * w / h:
            raise UserError(
                f"{masks.path}: mask {masks.names[index]} is {mask.shape[1]}x{mask.shape[0]} and its frame is {w}x{h}: "
                "the shapes differ. Make the masks from the same frames."
            )
        alpha = resize_premultiplied(mask[..., None].astype(np.float32), h, w)
        out.append(np.dstack([frame[..., :3], np.round(alpha).astype(np.uint8)]))
    return out


def _numbers(name: str) -> list[int]:
    return [value for kind, value, _ in natural_key(name.rsplit(".", 1)[0]) if kind == 0]


def _check_alpha(frames: list[np.ndarray], clip: Clip, path: str) -> None:
    """Every frame must show something, and hide something."""
    missing = [name for name, frame in zip(clip.names, frames, strict=True) if is_opaque(frame)]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(frames)} frames have no alpha, or are opaque everywhere: "
            f"{name_some(missing)}. {_HOW_TO_GET_ALPHA}."
        )
    empty = [name for name, frame in zip(clip.names, frames, strict=True) if int(frame[..., 3].max()) < 128]
    if empty:
        raise UserError(
            f"{path}: {len(empty)} of {len(frames)} frames are empty (no pixel is more than half opaque): "
            f"{name_some(empty)}. Take them out, or make their alpha again."
        )


def _check_extent(frames: list[np.ndarray], clip: Clip, path: str, recenter: bool) -> None:
    """Warn of an object that the border cuts, and of one that is very small."""
    cut = border_warning(frames, clip.names, path)
    if cut:
        clip.warnings.append(cut)
    top, bottom, left, right = common_box(frames)
    extent = max(bottom - top, right - left) / max(frames[0].shape[:2])
    if extent < 0.35 and not recenter:
        clip.warnings.append(
            f"{path}: the object fills only {100 * extent:.0f}% of the frame, over the whole clip. data.recenter=true "
            "crops the clip to it and gives a sharper result."
        )
