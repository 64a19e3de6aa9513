"""How good a text-to-video prior is at sentences and assets that it was not trained on, against trivial baselines.

Every number is stated with what knows nothing: the mean frame of the training clips standing still, no text, a wrong
text, chance. Clips are [N, F, 3, S, S] in [0, 1]; contexts are embeddings [N, L, D].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion.t2v.model import TextToVideoModel
from ...guidance import score_distillation as sd
from ..assets.captions import Captions
from ..image_text.evaluation import picture_features, retrieval
from ..image_text.model import ImageTextModel
from ..sd.evaluation import feature_distance
from ..svd.evaluation import motion, motion_distance


@dataclass
class CaptionedClips:
    """N true clips.

    Attributes:
        video: [N, F, 3, S, S] in [0, 1] on white.
        caption: sentence of asset and action, [N] long.
        asset_caption: sentence of the asset alone, [N] long.
    """

    video: Tensor
    caption: Tensor
    asset_caption: Tensor

    def __len__(self) -> int:
        return len(self.video)

    def wrong_captions(self) -> Tensor:
        """For each clip the caption of another one, of another asset: [N]. The nearest further down the list."""
        wrong, other = self.caption.roll(-1), self.asset_caption.roll(-1)
        for shift in range(2, len(self)):
            same = other == self.asset_caption
            wrong = torch.where(same, self.caption.roll(-shift), wrong)
            other = torch.where(same, self.asset_caption.roll(-shift), other)
        return wrong

    @classmethod
    def draw(
        cls, sampler: Callable, captions: Captions, pose_asset: Tensor, count: int, batch_size: int = 64
    ) -> CaptionedClips:
        """``count`` clips of a ``ClipSampler``; ``pose_asset`` is that of its meshes."""
        parts = [sampler(min(batch_size, count - start)) for start in range(0, count, batch_size)]
        pose = torch.cat([part.pose[:, 0] for part in parts])
        plain = captions.asset_caption_index[pose_asset[pose].long()]
        return cls(torch.cat([part.video for part in parts]), captions.pose_caption[pose], plain)


@torch.no_grad()
def denoising_losses(
    model: TextToVideoModel, clips: CaptionedClips, contexts: dict[str, Tensor], batch_size: int = 64, seed: int = 0
) -> dict[str, float]:
    """Mean squared error of the predicted velocity, over clips at evenly spread timesteps, one noise each.

    Args:
        contexts: name -> contexts [N, L, D]; all see the same noise and timesteps.
    """
    device, count = clips.video.device, len(clips)
    generator = torch.Generator(device).manual_seed(seed)
    timesteps = torch.linspace(0, model.num_train_timesteps - 1, count, device=device).round().long()
    timesteps = timesteps[torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(device)]
    totals = dict.fromkeys(contexts, 0.0)
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        x0, t = model.encode(clips.video[part], sample=False), timesteps[part]
        alpha_bar = model.alphas_cumprod[t]
        noise = torch.randn(x0.shape, generator=generator, device=device)
        noisy = sd.add_noise(x0, noise, alpha_bar)
        v = sd.v_from_eps_x0(noise, x0, alpha_bar)
        for name, context in contexts.items():
            v_hat = sd.v_from_eps_x0(*model.predict(noisy, t, context[part]), alpha_bar)
            totals[name] += F.mse_loss(v_hat, v).item() * len(x0)
    return {name: total / count for name, total in totals.items()}


@torch.no_grad()
def one_step_clips(model: TextToVideoModel, context: Tensor, batch_size: int = 64, seed: int = 0) -> Tensor:
    """What the prior predicts from pure noise, the mean of all clips that fit the text: contexts -> clips."""
    generator = torch.Generator(context.device).manual_seed(seed)
    channels, height, width = model.latent_shape()
    drawn = []
    for part in context.split(batch_size):
        shape = (len(part), channels, model.frames, height, width)
        noise = torch.randn(shape, generator=generator, device=context.device)
        t = torch.full((len(part),), model.num_train_timesteps - 1, device=context.device)
        drawn.append(model.decode(model.predict(noise, t, part)[1]))
    return torch.cat(drawn).float()


@torch.no_grad()
def sample_clips(
    model: TextToVideoModel,
    context: Tensor,
    negative: Tensor,
    steps: int = 30,
    guidance_scale: float = 4.0,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Clips [N, F, 3, S, S] drawn by DDIM for contexts [N, L, D]; ``negative`` is [1, L, D]."""
    generator = torch.Generator(context.device).manual_seed(seed)
    options = {"steps": steps, "guidance_scale": guidance_scale, "generator": generator}
    return torch.cat([model.sample(part, negative, None, **options) for part in context.split(batch_size)]).float()


def psnr(video: Tensor, truth: Tensor) -> float:
    """Mean over clips of the PSNR in dB over all frames."""
    error = (video - truth).square().flatten(1).mean(1).clamp_min(1e-10)
    return (-10 * torch.log10(error)).mean().item()


def middle_frames(video: Tensor) -> Tensor:
    """[N, F, 3, S, S] -> [N, 3, S, S]."""
    return video[:, video.shape[1] // 2]


def sample_scores(
    clip: ImageTextModel,
    sentences: list[str],
    samples: dict[str, Tensor],
    clips: CaptionedClips,
    mean_frame: Tensor,
    training: Tensor | None = None,
) -> dict[str, Any]:
    """Samples against true clips.

    Args:
        clip: judges middle frames. It was trained on the same assets as the prior.
        sentences: all captions.
        samples: name -> clips drawn for the captions of ``clips`` (``right_text``), or without text, or for wrong ones.
        clips: the true ones.
        mean_frame: of the training clips, [3, S, S].
        training: other true clips, of training assets.

    Returns:
        ``retrieval``: share of middle frames whose asset caption is the nearest of the K distinct ones (``top1``), or
        among the nearest five, for each kind of samples and for ``true_clips`` (what the judge can do at best);
        ``motion``: mean absolute change from frame to frame, over that of the true clips; ``motion_frechet``: squared
        Frechet distance of motion features (``svd_evaluation.motion_features``: differences of neighbouring frames on
        an 8 x 8 grid under a fixed random projection); ``frame_frechet``: the same of the judge's features of middle
        frames. ``static_mean`` is the dataset's mean frame standing still, ``static`` the true clips with their first
        frame repeated; ``halves`` compares one half of the true clips with the other.
    """
    present, right = clips.asset_caption.unique(return_inverse=True)
    texts = clip.text_features([sentences[i] for i in present.tolist()])
    truth = clips.video
    still = {"static_mean": mean_frame.expand_as(truth), "static": truth[:, :1].expand_as(truth)}
    shown = {**samples, **({} if training is None else {"training": training}), **still}
    features = {name: picture_features(clip, middle_frames(video)) for name, video in shown.items()}
    real = picture_features(clip, middle_frames(truth))
    found: dict[str, Any] = {}
    for name, seen in {**{name: features[name] for name in samples}, "true_clips": real}.items():
        result = retrieval(seen, texts, right)
        found[name] = {"top1": result["caption_top1"], "top5": result["caption_top5"]}
    found |= {key: result[key] for key in ("chance_top1", "chance_top5")}
    half = len(truth) // 2
    frames = {name: feature_distance(seen, real) for name, seen in features.items() if name != "static"}
    moves = {name: motion_distance(video, truth) for name, video in shown.items()}
    frames["halves"] = feature_distance(real[:half], real[half:])
    moves["halves"] = motion_distance(truth[:half], truth[half:])
    change = motion(truth).mean()
    return {
        "captions": len(present),
        "retrieval": found,
        "motion": {name: (motion(video).mean() / change).item() for name, video in shown.items()},
        "motion_frechet": moves,
        "frame_frechet": frames,
    }
