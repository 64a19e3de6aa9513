"""One clip from a sentence or a picture, ready to be the input of a 4D system.

    python -m threestudio_4d.generate "a fox walking" clips/fox
    python -m threestudio_4d.generate picture.png clips/picture

Without an installation ``python custom/threestudio_4d/generate.py ...`` does the same. A sentence goes to a
text-to-video prior, a picture to an image-to-video prior. The white background of the sample is removed, as
``threestudio_4d.prepare`` removes plain backgrounds. OUT then holds ``0.png``, ``1.png``, ... with alpha,
``contact_sheet.png``, ``clip.mp4`` and ``clip.gif`` to look at, and ``generate.json``, a record of what was asked for.

Exit status: 0 done, 1 the sample shows nothing, 2 a fault that the message explains, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run as a file: put both packages on the path, run as a module
    _project = Path(os.path.abspath(__file__)).parents[2]
    sys.path[:1] = [str(_project / "custom"), str(_project / "extern")]
    runpy.run_module("threestudio_4d.generate", run_name="__main__", alter_sys=True)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from . import __version__  # noqa: E402
from .atomic import WriteError, atomic_folder, write_text  # noqa: E402
from .command import command  # noqa: E402
from .data.clip import premultiply, resize_premultiplied, unpremultiply  # noqa: E402
from .data.frame_source import name_some
from .data.frame_sources import PICTURES, open_source  # noqa: E402
from .data.framing import bounds, cut_window, window_around  # noqa: E402
from .data.keying import key_out, plain_background  # noqa: E402
from .data.picture_file import is_picture_file  # noqa: E402
from .diffusion.codec import PixelUnshuffleCodec  # noqa: E402
from .errors import UserError  # noqa: E402
from .paths import expand, train_command  # noqa: E402
from .prepare.background import choose_method, remove_background  # noqa: E402
from .prepare.choice import MOST_FRAMES  # noqa: E402
from .prepare.folder import check_target  # noqa: E402
from .prepare.masks import keep_largest  # noqa: E402
from .prepare.pipeline import to_level  # noqa: E402
from .prepare.progress import Steps  # noqa: E402
from .prepare.sheet import checkerboard, over, sheet_columns  # noqa: E402
from .results.pictures import write_png  # noqa: E402
from .video_files import write_video  # noqa: E402

RECORD = "generate.json"
LEAST_SHARE = 0.003  # of the picture that an object covers in every frame
PICTURE_FILL = 0.75  # longer side of a picture's object, as a share of the frame: as in the training of svd-tiny
VIEWING_SIDE = 256  # smaller frames are enlarged so far in videos and on the sheet


RANGES = {
    "frames": (2, MOST_FRAMES),
    "steps": (1, 1000),
    "height": (8, 2048),
    "width": (8, 2048),
    "fps": (0.1, 100),
    "motion_bucket": (0, 1000),
    "guidance_scale": (-100, 100),
    "seed": (-(2**63), 2**63 - 1),
}


class BlankSample(UserError):
    """The prior drew nothing, in some frame or in all."""


@dataclass
class Request:
    """What is asked for. None leaves a value to the prior.

    Attributes:
        source: a sentence, or the path of a picture.
        model: built-in prior, folder in diffusers layout, or hub id.
        frames, steps: of the clip, of the sampler.
        guidance_scale: of classifier-free guidance; for a picture the one of the last frame.
        negative: what a text-to-video prior shall avoid.
        fps: of the videos, and what an image-to-video prior is told.
        motion_bucket: how much an image-to-video prior shall move things; 200 is much, 20 little.
        height, width: of the frames, for published models.
        fill: longer side of a picture's object, as a share of the frame.
        keep_background: write the frames as they were drawn, without alpha.
    """

    source: str
    model: str | None = None
    frames: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative: str = ""
    fps: float = 8.0
    motion_bucket: float | None = None
    height: int | None = None
    width: int | None = None
    fill: float = PICTURE_FILL
    keep_background: bool = False
    seed: int = 0
    device: str | None = None

    def check(self) -> None:
        """Raise a ``UserError`` for a value outside its range."""
        if not self.source.strip():
            raise UserError("the sentence is empty. Say what the clip shall show, such as 'a fox walking'.")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # so that nan is refused too
                raise UserError(f"--{name.replace('_', '-')} is {value:g}; it must be from {least} to {most}.")
        if not 0.1 <= self.fill <= 1:
            raise UserError(f"--fill is {self.fill:g}; it must be from 0.1 to 1.")

    @property
    def torch_device(self) -> torch.device:
        name = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise UserError(f"--device is '{name}'; give cpu, cuda or cuda:N.") from error
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--device is '{name}', which is not supported; give cpu, cuda or cuda:N.")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"--device is '{name}', but PyTorch finds {torch.cuda.device_count()} GPUs here.")
        return device


def is_picture(source: str) -> bool:
    """Whether INPUT is meant as a path: it exists, or is one word that ends like a picture's file."""
    place = expand(source)
    if os.path.exists(place):
        return True
    return bool(re.fullmatch(r"\S+", source)) and place.suffix.lower() in PICTURES


def clip_from_text(request: Request, steps: Steps) -> np.ndarray:
    """Frames, uint8 ``[F, H, W, 3]``, drawn for the sentence."""
    from .diffusion.t2v.model import load_t2v

    device = request.torch_device
    with steps.bar("loading", 1):
        model = load_t2v(request.model or "t2v-tiny", device)
    built_in = isinstance(model.vae, PixelUnshuffleCodec)
    text, negative = model.embed([request.source]), model.embed([request.negative])
    if device.type == "cuda" and not built_in:
        torch.nn.Module.to(model.unet, torch.float16)
    count = request.steps or (16 if built_in else 40)
    scale = request.guidance_scale if request.guidance_scale is not None else (4.0 if built_in else 9.0)
    with steps.bar("sampling", count) as advance:
        video = model.sample(
            text,
            negative,
            frames=request.frames,
            height=request.height,
            width=request.width,
            steps=count,
            guidance_scale=scale,
            generator=torch.Generator().manual_seed(request.seed),
            on_step=lambda *_: advance(),
        )
    return _to_frames(video)


def clip_from_picture(request: Request, steps: Steps) -> np.ndarray:
    """Frames, uint8 ``[F, H, W, 3]``, that go on from the picture."""
    from .diffusion.svd.model import load_svd

    device = request.torch_device
    with steps.bar("reading", 1):
        rgba = read_object(request.source)
    with steps.bar("loading", 1):
        model = load_svd(request.model or "svd-tiny", device)
    height, width = request.height or model.image_size, request.width or model.image_size
    picture = place_object(rgba, height, width, request.fill)
    pixels = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
    if device.type == "cuda" and model.image_size > VIEWING_SIDE:
        torch.nn.Module.to(model.unet, torch.float16)
    count = request.steps or 25
    built_in = model.norm_groups is not None  # it moves things less than it is told, and at 3 colours drift
    scale = request.guidance_scale if request.guidance_scale is not None else (2.0 if built_in else 3.0)
    bucket = request.motion_bucket if request.motion_bucket is not None else (150.0 if built_in else 127.0)
    with steps.bar("sampling", count) as advance:
        video = model.sample(
            pixels,
            frames=request.frames,
            size=(height, width),
            fps=request.fps,
            motion_bucket=bucket,
            steps=count,
            max_guidance_scale=scale,
            generator=torch.Generator().manual_seed(request.seed),
            on_step=lambda *_: advance(),
        )
    return _to_frames(video)


def _to_frames(video: torch.Tensor) -> np.ndarray:
    return (video[0].movedim(1, -1).float().clamp(0, 1) * 255).round().byte().cpu().numpy()


def read_object(path: str) -> np.ndarray:
    """The object of a picture, uint8 RGBA ``[H, W, 4]``: its own alpha, or a plain background keyed out, or U2-Net.

    Raises:
        UserError: no such file, damaged, no picture, or no object in it.
    """
    place = expand(path)
    if place.is_dir():
        raise UserError(f"INPUT: {place} is a folder. Give one picture, or a sentence.")
    if place.exists() and place.suffix.lower() not in PICTURES and not is_picture_file(place):
        raise UserError(f"INPUT: {place} is not a picture. Give one of {', '.join(sorted(PICTURES))}, or a sentence.")
    source = open_source(path, "INPUT", allow_picture=True)
    frame = source.read([0], lambda picture: picture)[0]
    cutout = remove_background([frame], choose_method([frame], path), path)
    rgba = np.dstack([cutout.colors[0], to_level(cutout.alphas[0])])
    if (rgba[..., 3] >= 128).mean() < 1e-4:
        raise UserError(f"INPUT: there is nothing to be seen in {place} once its background is removed.")
    return rgba


def place_object(rgba: np.ndarray, height: int, width: int, fill: float) -> np.ndarray:
    """The object on white, uint8 ``[height, width, 3]``, centred, as large as ``fill`` says."""
    side = min(height, width)
    window = window_around(bounds(rgba), fill)
    square = unpremultiply(resize_premultiplied(premultiply(cut_window(rgba, window)), side, side))
    picture = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = over(square, 255)
    return picture


def cut_out(frames: np.ndarray) -> list[np.ndarray] | None:
    """RGBA frames, uint8 ``[H, W, 4]``, without their plain background and without specks; None if it is not plain.

    Raises:
        BlankSample: there is no object in some frame.
    """
    background = plain_background(list(frames))
    if background is None:
        return None
    keyed = [key_out(frame, background) for frame in frames]
    alphas, _ = keep_largest([frame[..., 3].astype(np.float32) / 255 for frame in keyed])
    clip = [np.dstack([frame[..., :3], to_level(alpha)]) for frame, alpha in zip(keyed, alphas, strict=True)]
    empty = [str(k) for k, frame in enumerate(clip) if (frame[..., 3] >= 128).mean() < LEAST_SHARE]
    if empty:
        where = "in any frame" if len(empty) == len(clip) else f"in frames {name_some(empty)} of {len(clip)}"
        raise BlankSample(
            f"the sample shows nothing {where}: nothing was written. Try another --seed, a higher --guidance-scale, or "
            "words that the prior knows (its model card lists them)."
        )
    return clip


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture by a whole factor, so that players show it."""
    factor = max(1, VIEWING_SIDE // max(picture.shape[:2]))
    return np.repeat(np.repeat(picture, factor, 0), factor, 1)


def contact_sheet(clip: list[np.ndarray]) -> np.ndarray:
    """Up to eight frames side by side, uint8 RGB; of RGBA frames also over a checkerboard, and their alpha."""
    shown = [enlarged(clip[k]) for k in sheet_columns(len(clip))]
    if shown[0].shape[2] == 3:
        return np.concatenate(shown, axis=1)
    height, width = shown[0].shape[:2]
    board = checkerboard(max(height, width))[:height, :width]
    rows = [
        [over(frame, 255) for frame in shown],
        [over(frame, board) for frame in shown],
        [cv2.cvtColor(frame[..., 3], cv2.COLOR_GRAY2RGB) for frame in shown],
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def write_clip(out: Path, clip: list[np.ndarray], request: Request, notes: list[str]) -> None:
    """Write frames, videos, sheet and record; the folder appears when it is complete."""
    pictures = [enlarged(over(frame, 255) if frame.shape[2] == 4 else frame) for frame in clip]
    record = {"made_by": f"threestudio_4d.generate {__version__}", **asdict(request), "notes": notes}
    record |= {"frames": len(clip), "size": list(clip[0].shape[:2]), "alpha": clip[0].shape[2] == 4}
    with atomic_folder(out) as folder:
        for k, frame in enumerate(clip):
            write_png(str(folder / f"{k}.png"), frame)
        write_png(str(folder / "contact_sheet.png"), contact_sheet(clip))
        write_video(folder / "clip.gif", pictures, request.fps)
        try:
            write_video(folder / "clip.mp4", pictures, request.fps)
        except WriteError:
            raise
        except UserError as error:  # PyAV is not there; the gif is
            notes.append(str(error))
        write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def generate(
    request: Request, out: str | Path, overwrite: bool = False, quiet: bool = False
) -> tuple[list[np.ndarray], list[str]]:
    """Draw a clip and write it to the folder ``out``.

    Returns:
        The frames, uint8 ``[H, W, 4]`` or without alpha ``[H, W, 3]``, and notes on what is not as one would expect.

    Raises:
        UserError: for everything that stands in the way; nothing has been written then.
        BlankSample: the prior drew nothing.
    """
    request.check()
    out, notes = expand(out), []
    from_picture = is_picture(request.source)
    if request.negative and from_picture:
        raise UserError("--negative is for sentences; INPUT is a picture.")
    if request.motion_bucket is not None and not from_picture:
        raise UserError("--motion-bucket is for pictures; INPUT is a sentence.")
    inputs = [expand(request.source)] if from_picture else []
    check_target(out, inputs, overwrite, RECORD)
    with Steps(quiet) as steps:
        draw = clip_from_picture if from_picture else clip_from_text
        frames = draw(request, steps)
        clip = None
        if not request.keep_background:
            clip = cut_out(frames)
            if clip is None:
                notes.append(
                    "the sample has no plain background, so its frames have no alpha. Remove the background with: "
                    f"python -m threestudio_4d.prepare {out} {out}-rgba"
                )
        with steps.bar("writing", 1):
            clip = list(frames) if clip is None else clip
            write_clip(out, clip, request, notes)
    return clip, notes


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m threestudio_4d.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = parser.add_argument, Request("")
    add("source", metavar="INPUT", help="a sentence, or the path of a picture")
    add("out", metavar="OUT", help="folder to write")
    add("--model", help="built-in prior, folder or hub id (default t2v-tiny for sentences, svd-tiny for pictures)")
    add("--frames", type=int, metavar="N", help="of the clip (default: as the prior was trained)")
    add("--steps", type=int, metavar="N",
        help="of the sampler (default 25 for pictures; for sentences 16, or 40 with published models)")  # fmt: skip
    add("--guidance-scale", type=float, metavar="S", help="how closely the clip follows the input")
    add("--negative", default="", metavar="TEXT", help="what the clip shall not show; sentences only")
    add("--fps", type=float, default=default.fps, help="frames in a second (default %(default)s)")
    add("--motion-bucket", type=float, metavar="M",
        help="how much shall move; pictures only (default 150 for svd-tiny, 127 for published models)")  # fmt: skip
    add("--height", type=int, help="of the frames (default: the prior's own)")
    add("--width", type=int)
    add("--fill", type=float, default=default.fill, metavar="F",
        help="longer side of the picture's object, as a share of the frame (default %(default)s)")  # fmt: skip
    add("--keep-background", action="store_true", help="write the frames as they were drawn, without alpha")
    add("--seed", type=int, default=0)
    add("--device", help="cpu, cuda or cuda:N (default: the GPU if there is one)")
    add("--overwrite", action="store_true", help="replace an earlier result in OUT")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


@command(interrupted="interrupted; nothing was written")
def main(argv: list[str] | None = None) -> int:
    arguments = vars(build_parser().parse_args(argv))
    out, overwrite, quiet = (arguments.pop(name) for name in ("out", "overwrite", "quiet"))
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # their bars for loading say nothing that ours do not
    try:
        clip, notes = generate(Request(**arguments), out, overwrite, quiet)
    except BlankSample as error:
        print(f"blank: {error}", file=sys.stderr)
        return 1
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{out}: look at {Path(out) / 'contact_sheet.png'}.")
    if clip[0].shape[2] == 4:
        print(f"Train with: {train_command(out, loop=False)}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-done is left behind
    sys.exit(main())
