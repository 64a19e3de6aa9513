"""How well an image-to-video prior continues unseen objects, against the true continuation and trivial baselines.

A moving object may go on in many ways, so that two kinds of numbers are needed. *Against the true continuation*
(PSNR): the posterior mean, which is what one step from pure noise gives, should beat standing still; a sample need not,
since its legs may well be out of step with the true ones. *As a set of clips* (motion): how much samples move compared
with true clips, and the Frechet distance of their motion features.

The prior is told the frame rate and the motion bucket of the true clip; the baselines use neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion.svd.model import SVDModel
from ...errors import UserError
from ...evaluation.frechet import frechet_distance_of_sets
from ...evaluation.novel_views import read_clip
from .networks import motion_bucket

MOTION_GRID = 8
MOTION_FEATURES = 64
BENCHMARK_STRIDE = 2


@dataclass
class VideoClips:
    """True clips.

    Attributes:
        video: [N, T, 3, S, S] in [0, 1] on white; the first frame is what the prior is given.
        fps: [N].
    """

    video: Tensor
    fps: Tensor

    def __len__(self) -> int:
        return len(self.video)

    @classmethod
    def draw(cls, sampler: Callable, count: int, batch_size: int = 64) -> VideoClips:
        """``count`` clips of a ``ClipSampler``."""
        parts = [sampler(min(batch_size, count - start)) for start in range(0, count, batch_size)]
        return cls(torch.cat([part.video for part in parts]), torch.cat([part.fps for part in parts]))

    @classmethod
    def load(cls, folder: str | Path, frames: int, size: int, starts: int = 4) -> VideoClips:
        """The input clips ``<object>/ref/<frame>.png`` of a benchmark, which loop: ``starts`` windows of each.

        Every second frame is taken. Training clips show a loop in 24 frames and call that 24 frames a second; a loop of
        N frames seen in that way has a rate of N / 2.

        Raises:
            UserError: there is none.
        """
        clips, rates = [], []
        for path in sorted(path for path in Path(folder).iterdir() if (path / "ref").is_dir()):
            loop = torch.from_numpy(read_clip(path / "ref", size)[..., :3]).permute(0, 3, 1, 2)
            for start in range(0, len(loop), max(len(loop) // starts, 1)):
                clips.append(loop[(start + BENCHMARK_STRIDE * torch.arange(frames)) % len(loop)])
                rates.append(len(loop) / BENCHMARK_STRIDE)
        if not clips:
            raise UserError(f"{folder} holds no clip: expected <object>/ref/0.png, 1.png, ...")
        return cls(torch.stack(clips), torch.tensor(rates))

    def to(self, device: torch.device | str) -> VideoClips:
        return VideoClips(self.video.to(device), self.fps.to(device))


def motion(video: Tensor) -> Tensor:
    """Mean absolute change of pixels from frame to frame, out of 255: [N, T, 3, S, S] -> [N]."""
    return 255 * video.diff(dim=1).abs().flatten(1).mean(1)


def psnr(video: Tensor, truth: Tensor) -> Tensor:
    """Mean over clips of the PSNR in dB of all frames after the first; [N, T, 3, S, S] in [0, 1]."""
    error = (video[:, 1:] - truth[:, 1:]).square().flatten(1).mean(1)
    return -10 * torch.log10(error.clamp_min(1e-10)).mean()


def pooled_psnr(video: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of the mean square error over all clips: those that move much count more than in ``psnr``."""
    return -10 * torch.log10((video[:, 1:] - truth[:, 1:]).square().mean().clamp_min(1e-10))


def motion_features(video: Tensor) -> Tensor:
    """What moves where and when: [N, T, 3, S, S] -> [N, 64].

    The differences of neighbouring frames' mean over colours, averaged over an 8 x 8 grid, times 255, as one vector of
    (T - 1) 64 numbers, projected by one fixed Gaussian matrix (seed 0, columns of unit expected norm).
    """
    change = 255 * video.mean(2).diff(dim=1)
    cells = F.adaptive_avg_pool2d(change, MOTION_GRID).flatten(1)
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(cells.shape[1], MOTION_FEATURES, generator=generator) / cells.shape[1] ** 0.5
    return cells @ projection.to(cells)


def motion_distance(video: Tensor, truth: Tensor) -> float:
    """Squared Frechet distance of the motion features of two sets of clips."""
    with torch.autocast(video.device.type, enabled=False):  # sums of many small changes need single precision
        features = [motion_features(clips.float()).cpu().numpy() for clips in (video, truth)]
    return frechet_distance_of_sets(*features)


def scores(video: Tensor, clips: VideoClips) -> dict[str, float]:
    """``psnr`` and ``pooled_psnr`` in dB, ``motion`` relative to the truth's mean, ``motion_distance``."""
    video, truth = video.float(), clips.video
    return {
        "psnr": psnr(video, truth).item(),
        "pooled_psnr": pooled_psnr(video, truth).item(),
        "motion": (motion(video).mean() / motion(truth).mean()).item(),
        "motion_distance": motion_distance(video, truth),
    }


def baseline_clips(clips: VideoClips, mean_frame: Tensor | None = None) -> dict[str, Tensor]:
    """What knows nothing of motion: the first frame, repeated; and the mean frame of the training data, if given."""
    baselines = {"static": clips.video[:, :1].expand_as(clips.video)}
    if mean_frame is not None:
        baselines["dataset mean"] = mean_frame.expand_as(clips.video)
    return baselines


def _batches(clips: VideoClips, batch_size: int) -> Iterator[VideoClips]:
    for start in range(0, len(clips), batch_size):
        part = slice(start, start + batch_size)
        yield VideoClips(clips.video[part], clips.fps[part])


@torch.no_grad()
def reconstructed_clips(model: SVDModel, clips: VideoClips, batch_size: int = 32) -> Tensor:
    """True clips through the autoencoder and back: the best that the prior could do. [N, T, 3, S, S]."""
    return torch.cat([model.decode(model.encode(part.video)) for part in _batches(clips, batch_size)])


@torch.no_grad()
def one_step_clips(model: SVDModel, clips: VideoClips, batch_size: int = 32, seed: int = 0) -> Tensor:
    """Clips predicted in one step from pure noise: the posterior mean in latent space. [N, T, 3, S, S]."""
    device = clips.video.device
    generator = torch.Generator(device).manual_seed(seed)
    sigma_max, drawn = model.sigma_range[1], []
    for part in _batches(clips, batch_size):
        count, frames, size = len(part), part.video.shape[1], tuple(part.video.shape[-2:])
        condition = model.encode_condition(part.video[:, 0], size, 0.02, generator)
        ids = model.time_ids(part.fps, motion_bucket(motion(part.video)), 0.02, count)
        shape = (count, frames, *model.latent_shape(*size))
        noisy = sigma_max * torch.randn(shape, generator=generator, device=device)
        sigma = torch.full((count,), sigma_max, device=device)
        drawn.append(model.decode(model.predict(noisy, sigma, condition, ids)))
    return torch.cat(drawn)


@torch.no_grad()
def sampled_clips(
    model: SVDModel,
    clips: VideoClips,
    steps: int = 25,
    max_guidance_scale: float = 2.0,
    batch_size: int = 32,
    seed: int = 0,
    bucket: float | None = None,
) -> Tensor:
    """Clips sampled by Euler's method, [N, T, 3, S, S]; guidance rises from 1 to ``max_guidance_scale``.

    The motion bucket is that of the true clip, or ``bucket``.
    """
    generator = torch.Generator(clips.video.device).manual_seed(seed)
    return torch.cat(
        [
            model.sample(
                part.video[:, 0],
                frames=part.video.shape[1],
                size=tuple(part.video.shape[-2:]),
                fps=part.fps,
                motion_bucket=motion_bucket(motion(part.video)) if bucket is None else bucket,
                steps=steps,
                max_guidance_scale=max_guidance_scale,
                generator=generator,
            )
            for part in _batches(clips, batch_size)
        ]
    )
