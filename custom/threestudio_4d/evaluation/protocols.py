"""What is measured and how frames are prepared for it: metric definitions and the protocols that combine them.

A number is only comparable with another of the same protocol (name and version) and the same metric id. Raise a version
when a definition changes. ``docs/evaluation.md`` describes each in words and says where it departs from published code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import UserError
from .novel_views import NOVEL_VIEWS

#: the view that was the input of the method; part of the truth, never scored
REFERENCE_VIEW = "ref"


@dataclass(frozen=True)
class Metric:
    """One definition: ``id`` names it for good, ``better`` says where good is, ``needs`` which network it takes."""

    name: str
    id: str
    title: str
    better: Literal["higher", "lower"]
    digits: int
    definition: str
    needs: Literal["", "lpips-alex", "lpips-vgg", "clip", "fvd"] = ""
    #: False: one number for the whole set of clips, none for an object or a view
    per_view: bool = True


def _sv4d(name: str, title: str, clips: str) -> Metric:
    text = f"Frechet distance of the I3D features of clips over the matrix of views and frames: {clips}"
    return Metric(name, f"sv4d-{name.replace('_', '-')}/1", title, "lower", 1, text, "fvd", per_view=False)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "psnr/1", "PSNR dB", "higher", 2, "mean over frames of the PSNR of colours, data range 1"),
        Metric(
            "psnr_published",
            "psnr-consistent4d/1",
            "PSNR dB (published)",
            "higher",
            2,
            "mean over frames of the PSNR of colours, data range = max - min of the truth's frame",
        ),
        Metric(
            "ssim",
            "ssim/1",
            "SSIM",
            "higher",
            3,
            "mean over frames of torchmetrics' SSIM (Gaussian window, sigma 1.5) of colours, data range 1",
        ),
        Metric(
            "ssim_published",
            "ssim-consistent4d/1",
            "SSIM (published)",
            "higher",
            3,
            "as ssim, data range = the larger of both frames' max - min",
        ),
        Metric("iou", "silhouette-iou/1", "IoU", "higher", 3, "mean over frames of the IoU of alpha > 0.5"),
        Metric(
            "flicker",
            "flicker/1",
            "flicker",
            "lower",
            2,
            "mean absolute error of the change from frame to frame, in 8-bit levels",
        ),
        Metric(
            "lpips_alex",
            "lpips-0.1-alex/1",
            "LPIPS (Alex)",
            "lower",
            4,
            "mean over frames of LPIPS 0.1, AlexNet trunk, linear heads",
            "lpips-alex",
        ),
        Metric(
            "lpips_vgg",
            "lpips-0.1-vgg/1",
            "LPIPS (VGG)",
            "lower",
            4,
            "mean over frames of LPIPS 0.1, VGG16 trunk, linear heads",
            "lpips-vgg",
        ),
        Metric(
            "clip",
            "clip-image-cosine/1",
            "CLIP",
            "higher",
            4,
            "mean over frames of the cosine of CLIP image embeddings of prediction and truth",
            "clip",
        ),
        Metric(
            "clip_t",
            "4dgen-clip-t/1",
            "CLIP-T",
            "lower",
            4,
            "mean over neighbouring frames of one view of half the squared angle between their CLIP image embeddings",
            "clip",
        ),
        Metric(
            "clip_t_truth",
            "4dgen-clip-t-truth/1",
            "CLIP-T of the truth",
            "lower",
            4,
            "clip_t of the ground truth: what right motion has, to read clip_t against",
            "clip",
        ),
        Metric(
            "clip_4dgen",
            "4dgen-clip/1",
            "CLIP (4DGen)",
            "lower",
            4,
            "mean over frames of half the squared angle between CLIP image embeddings of the input frame and the view",
            "clip",
        ),
        Metric(
            "fvd_consistent4d",
            "fvd-consistent4d/2",
            "FVD (Consistent4D)",
            "lower",
            1,
            "for each pair of clips, squared distance of their time-averaged I3D logits plus the squared difference of "
            "the standard deviations over logits; mean over pairs",
            "fvd",
        ),
        Metric(
            "fvd_styleganv",
            "fvd-styleganv/2",
            "FVD (StyleGAN-V)",
            "lower",
            1,
            "Frechet distance of the I3D features of all clips of 16 frames",
            "fvd",
            per_view=False,
        ),
        _sv4d("fvd_f", "FVD-F", "all frames of each view"),
        _sv4d("fvd_v", "FVD-V", "all views of each frame, by azimuth"),
        _sv4d("fvd_diag", "FVD-Diag", "diagonals: view and frame advance together, views wrap around"),
        _sv4d("fv4d", "FV4D", "one clip an object: the whole matrix view by view, every other view backwards"),
    )
}


@dataclass(frozen=True)
class Protocol:
    """How frames are prepared, and what is measured.

    Attributes:
        name, version: what a result carries.
        size: pixels of the (square) frames that are compared.
        resize: ``premultiplied-area`` (``data.clip``: area downwards, bilinear upwards, alpha premultiplied, floats) or
            ``pil-bicubic`` (8-bit pictures on their background, as Pillow resizes by default).
        background: ``white``: alpha blend; ``white-mask``: white where alpha is 0 and the stored colour elsewhere.
        needs_alpha: whether a frame without alpha is refused; else it is taken as already on white.
        views: what is compared if the caller names no views; None: every view of the truth but the input.
        metrics: computed by default, in the order of the table.
    """

    name: str
    version: int
    size: int
    resize: Literal["premultiplied-area", "pil-bicubic"]
    background: Literal["white", "white-mask"]
    needs_alpha: bool
    views: tuple[str, ...] | None
    metrics: tuple[str, ...]


_VIDEO = ("fvd_consistent4d", "fvd_styleganv", "fvd_f", "fvd_v", "fvd_diag", "fv4d")

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="bench4d",
            version=1,
            size=128,
            resize="premultiplied-area",
            background="white",
            needs_alpha=True,
            views=tuple(NOVEL_VIEWS),
            metrics=(
                *("psnr", "ssim", "iou", "flicker", "lpips_alex", "lpips_vgg"),
                *("clip", "clip_t", "clip_t_truth", "clip_4dgen", *_VIDEO),
            ),
        ),
        Protocol(
            name="consistent4d",
            version=1,
            size=512,
            resize="pil-bicubic",
            background="white",
            needs_alpha=False,
            views=None,
            metrics=(
                *("psnr", "psnr_published", "ssim", "ssim_published", "lpips_vgg"),
                *("clip", "fvd_consistent4d"),
            ),
        ),
    )
}


def find_protocol(name: str | Protocol) -> Protocol:
    """A protocol by its name; a ``Protocol`` is returned as it is."""
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def find_metrics(names: list[str] | tuple[str, ...]) -> list[Metric]:
    """Metrics by their names, in that order, without repetition."""
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UserError(f"there is no metric {', '.join(map(repr, unknown))}; choose from {', '.join(METRICS)}")
    return [METRICS[name] for name in dict.fromkeys(names)]
