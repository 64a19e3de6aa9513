"""Train the built-in image-to-video prior: first its autoencoder, then, on the latents of that, UNet and image encoder.

``python -m threestudio_4d.tiny_priors.svd.train --pack motion.npz --out run`` does both, in ``run/vae`` and
``run/svd``; ``torchrun --nproc_per_node 4 -m ...`` on several GPUs. A second call with the same ``--out`` goes on where
the first one stopped. The prior is ``run/svd/prior``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor

from ...arguments import Amount, Count, Frames, Scale, Share, Side
from ...command import command
from ...diffusion.svd import edm
from ...diffusion.svd.model import SVDCondition, SVDModel
from ..rendering.scenes import PosedMeshes
from ..sampling.clip_sampler import ClipSampler
from ..sampling.jitter import ShapeJitter
from ..training.loop import (
    BatchSize,
    LearningRate,
    Minutes,
    TrainingConfig,
    Weight,
    parse_config,
    stage_config,
    train_stages,
)
from .evaluation import VideoClips, baseline_clips, one_step_clips, psnr, reconstructed_clips, sampled_clips, scores
from .networks import build_svd_tiny, motion_bucket

LATENT_CLIPS = 32


@dataclass(kw_only=True)
class SVDTrainingConfig(TrainingConfig):
    """More settings; those of ``TrainingConfig`` are of the UNet's training.

    Attributes:
        pack: assets with whole clips to render.
        benchmark: folder of clips to score on too (``<object>/ref/<frame>.png``), or none.
        initial: folder of a prior whose weights to start from; its autoencoder is kept and not trained.
        vae_minutes, vae_max_steps, vae_batch_size, vae_learning_rate: of the autoencoder's training; samples are clips.
        kl_weight: of the mean divergence of a latent from a unit normal, beside the mean error of a pixel.
        jitter_steps: new shapes and palettes every so many steps (see ``ShapeJitter``); 0 keeps the assets as they are.
        permute_share: share of clips whose colour channels are exchanged.
        condition_dropout: share of clips without a picture, for classifier-free guidance.
        log_sigma_mean, log_sigma_std: the noise levels that are trained, a normal distribution of log sigma.
        terminal_share: share of clips at the highest noise level, where the posterior mean is learnt.
        validation_clips: number of clips of held-out assets to score on.
    """

    pack: str
    benchmark: str | None = None
    initial: str | None = None
    vae_minutes: Minutes = 3.0
    vae_max_steps: Count = 10**9
    vae_batch_size: BatchSize = 64
    vae_learning_rate: LearningRate = 1e-3
    kl_weight: Weight = 1e-4
    frames: Frames = 14
    image_size: Side = 64
    jitter_steps: Amount = 20
    permute_share: Share = 0.5
    condition_dropout: Share = 0.1
    log_sigma_mean: Scale = 0.7
    log_sigma_std: Weight = 1.6
    terminal_share: Share = 0.1
    validation_clips: Count = 256


def autoencoder_loss(vae: AutoencoderKLTemporalDecoder, video: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
    """Mean absolute plus mean square error of pixels in [-1, 1], and the weighted divergence of the latents.

    Args:
        video: [B, T, 3, S, S] in [0, 1].
        noise: of the posterior samples, [B T, C, h, w].
    """
    pixels = video.flatten(0, 1) * 2 - 1
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.mean + posterior.std * noise
    decoded = vae.decode(latents, num_frames=video.shape[1]).sample.float()
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).float().mean()
    return F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels) + kl_weight * divergence


def diffusion_loss(
    model: SVDModel,
    video: Tensor,
    sigma: Tensor,
    noise: Tensor,
    dropped: Tensor,
    fps: Tensor,
    bucket: Tensor,
    noise_aug_strength: Tensor,
) -> Tensor:
    """Mean square error of the network's output, see ``edm.output_target``.

    Args:
        video: [B, T, 3, S, S] in [0, 1]; its first frame is the picture.
        sigma: [B].
        noise: [B, T, C, h, w].
        dropped: 1 where a clip loses its picture, [B].
        fps, bucket, noise_aug_strength: [B].
    """
    with torch.no_grad():
        clean = model.encode(video).float()
        pictures = video[:, 0] + 0.5 * noise_aug_strength.view(-1, 1, 1, 1) * torch.randn_like(video[:, 0])
        latents = model.encode_frames(pictures).float()
    kept = (1 - dropped).view(-1, 1, 1)
    condition = SVDCondition(model.embed_images(video[:, 0]) * kept, latents * kept[..., None])
    noisy = clean + sigma.view(-1, 1, 1, 1, 1) * noise
    ids = model.time_ids(fps, bucket, noise_aug_strength, len(video))
    return F.mse_loss(model.denoise(noisy, sigma, condition, ids), edm.output_target(clean, noise, sigma))


class _ClipTask:
    """Clips to train on, in new shapes now and then, and held-out ones to score on."""

    still_share = 0.0

    def __init__(self, config: SVDTrainingConfig, device: torch.device, seed: int) -> None:
        self.config, self.device = config, device
        meshes = PosedMeshes.load(config.pack, device)
        shape = {"frames": config.frames, "resolution": config.image_size}
        looks = ClipSampler.Config(permute_share=config.permute_share)
        self.sampler = ClipSampler(meshes, **shape, seed=seed, still_share=self.still_share, cfg=looks)
        validation = ClipSampler(meshes, **shape, seed=1, validation=True)
        self.clips = {"held out": VideoClips.draw(validation, config.validation_clips)}
        if config.benchmark:
            loaded = VideoClips.load(config.benchmark, config.frames, config.image_size)
            self.clips["benchmark"] = loaded.to(device)
        # After the validation clips: these show the assets as they are.
        self.jitter = ShapeJitter(meshes, seed=seed + 1, by_asset=True) if config.jitter_steps else None

    def refresh(self, step: int) -> None:
        if self.jitter is not None and step % self.config.jitter_steps == 0:
            self.jitter.refresh()


class AutoencoderTask(_ClipTask):
    """The temporal autoencoder, on clips, many of which stand still: there are more assets without motion than with."""

    still_share = 0.3

    def __init__(self, config: SVDTrainingConfig, device: torch.device, seed: int) -> None:
        super().__init__(config, device, seed)
        self.svd = build_svd_tiny(config.image_size, config.frames).to(device)
        self.model = self.svd.vae.train()

    def draw(self, count: int) -> tuple[Tensor, ...]:
        video = self.sampler(count).video
        channels, height, width = self.svd.latent_shape(*video.shape[-2:])
        return video, torch.randn(count * video.shape[1], channels, height, width, device=self.device)

    def loss(self, model: AutoencoderKLTemporalDecoder, *batch: Tensor) -> Tensor:
        return autoencoder_loss(model, *batch, kl_weight=self.config.kl_weight)

    def evaluate(self, average: AutoencoderKLTemporalDecoder, final: bool) -> dict[str, Any]:
        self.svd.vae = average
        return {
            name: {"reconstruction_psnr": psnr(reconstructed_clips(self.svd, clips).float(), clips.video).item()}
            for name, clips in self.clips.items()
        }

    def save(self, average: AutoencoderKLTemporalDecoder, folder: Path) -> None:
        """The whole prior, its UNet untrained; scaled latents of held-out clips have a mean square of 1."""
        self.svd.vae = average
        with torch.no_grad():
            latents = self.svd.encode_frames(self.clips["held out"].video[:LATENT_CLIPS].flatten(0, 1))
        average.register_to_config(scaling_factor=round(latents.float().square().mean().rsqrt().item(), 5))
        self.svd.save(folder)


class VideoTask(_ClipTask):
    """UNet and image encoder, on the latents of a trained autoencoder."""

    still_share = 0.05

    def __init__(self, config: SVDTrainingConfig, initial: str | Path, device: torch.device, seed: int) -> None:
        super().__init__(config, device, seed)
        self.model = SVDModel.load(initial).to(device).train()
        self.model.vae.requires_grad_(False).eval()
        for name, clips in self.clips.items():
            videos = baseline_clips(clips, self._mean_frame())
            videos["reconstructed"] = reconstructed_clips(self.model, clips)
            for kind, video in videos.items():
                print(name, kind, json.dumps(scores(video, clips)), flush=True)

    def _mean_frame(self) -> Tensor:
        return self.sampler(min(self.config.validation_clips, 64)).video.mean((0, 1))

    def draw(self, count: int) -> tuple[Tensor, ...]:
        config, batch = self.config, self.sampler(count)
        sigma = edm.draw_training_sigmas(
            count,
            *self.model.sigma_range,
            config.log_sigma_mean,
            config.log_sigma_std,
            config.terminal_share,
            self.device,
        )
        latent_shape = self.model.latent_shape(*batch.video.shape[-2:])
        noise = torch.randn((count, batch.video.shape[1], *latent_shape), device=self.device)
        dropped = (torch.rand(count, device=self.device) < config.condition_dropout).float()
        strength = (-3.0 + 0.5 * torch.randn(count, device=self.device)).exp()  # as SVD was trained
        return batch.video, sigma, noise, dropped, batch.fps, motion_bucket(batch.motion), strength

    def loss(self, model: SVDModel, *batch: Tensor) -> Tensor:
        return diffusion_loss(model, *batch)

    def evaluate(self, average: SVDModel, final: bool) -> dict[str, Any]:
        result = {}
        for name, clips in self.clips.items():
            videos = {"one_step": one_step_clips(average, clips)}
            if final:
                videos |= {f"sampled_{scale:g}": sampled_clips(average, clips, 25, scale) for scale in (1.0, 2.0, 3.0)}
            result[name] = {kind: scores(video, clips) for kind, video in videos.items()}
        return result

    def save(self, average: SVDModel, folder: Path) -> None:
        average.save(folder)


@command()
def main(argv: list[str] | None = None) -> None:
    config = parse_config(SVDTrainingConfig, __doc__, argv, batch_size=192, ema_decay=0.999)
    autoencoder = stage_config(
        config,
        "vae",
        minutes=config.vae_minutes,
        max_steps=config.vae_max_steps,
        batch_size=config.vae_batch_size,
        learning_rate=config.vae_learning_rate,
        ema_decay=min(config.ema_decay, 0.998),
    )
    initial = config.initial or Path(autoencoder.out) / "prior"
    stages = [(stage_config(config, "svd"), lambda device, seed: VideoTask(config, initial, device, seed))]
    if config.initial is None:
        stages.insert(0, (autoencoder, lambda device, seed: AutoencoderTask(config, device, seed)))
    train_stages(stages)


if __name__ == "__main__":
    sys.exit(main())
