"""The networks of Stable Video Diffusion (Blattmann et al., 2023), published or built in: one class, one code path.

SVD makes a clip from one picture. The picture enters twice: the latent of the picture, with a little noise on it, is
concatenated to every noisy frame, and its image embedding is the context of the cross-attention. Three numbers go with
the noise level: frames per second less one, the motion bucket (how much is to move), the strength of the noise on the
picture. The parametrisation is that of ``edm``.

Kept as published: the latent of the picture is the posterior mean and is *not* scaled, those of the frames are; without
condition means a zero embedding and a zero picture latent, with the same three numbers; the weight of classifier-free
guidance rises over the frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from ...errors import UserError
from ...versions import require_diffusers
from ..model import CLIP_MEAN, CLIP_STD, PictureCondition
from ..t2v.temporal_convolution import flatten_temporal_convolutions
from ..weights.files import read_config
from ..weights.network_folder import (
    MAX_SHARD_SIZE,
    load_network,
    part_folder,
    save_network,
    without_position_ids,
    write_index,
)
from ..weights.resolve import read_index, resolve_prior
from . import edm

SVD_PARTS = ("unet", "vae", "image_encoder", "scheduler")

#: Called after every step of the sampler with its number and the latents [B, T, C, h, w].
OnStep = Callable[[int, Tensor], None]


class SVDCondition(PictureCondition):
    """What SVD knows of N pictures; K = 1."""


def resize_antialiased(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [N, C, H, W] as SVD does before its image encoder: a Gaussian blur, then bicubic with aligned corners.

    The blur of an axis that shrinks by a factor f has a standard deviation of (f - 1) / 2 pixels and a kernel of about
    four times that; axes that grow are not blurred.
    """
    for axis, (length, target) in enumerate(zip(images.shape[-2:], size, strict=True)):
        deviation = max((length / target - 1) / 2, 0.001)
        taps = int(max(4 * deviation, 3)) | 1
        offsets = torch.arange(taps, device=images.device, dtype=images.dtype) - taps // 2
        weights = torch.exp(-offsets.square() / (2 * deviation**2))
        shape = (taps, 1) if axis == 0 else (1, taps)
        kernel = (weights / weights.sum()).view(1, 1, *shape).expand(images.shape[1], 1, *shape)
        reach = taps // 2
        padded = F.pad(images, (0, 0, reach, reach) if axis == 0 else (reach, reach, 0, 0), mode="reflect")
        images = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.interpolate(images, size, mode="bicubic", align_corners=True)


class SVDModel(nn.Module):
    """UNet, temporal autoencoder and image encoder of an image-to-video prior.

    Args:
        unet: ``in_channels`` is twice ``out_channels``: the noisy latent and that of the picture.
        vae: its encoder sees single frames, its decoder several at a time.
        image_encoder: CLIP image encoder.
        scheduler: names the range of noise levels; must be in the parametrisation of ``edm``.
        image_mean, image_std: normalisation of the image encoder's pixels.
        norm_groups: groups of every group normalisation of UNet and autoencoder; None leaves 32, which the classes of
            diffusers fix. Narrow networks need fewer: 32 groups of 32 channels would take away every channel's mean,
            and with it the noise level that was just added to it.

    Raises:
        UserError: the scheduler is that of another kind of model.
    """

    def __init__(
        self,
        unet: diffusers.UNetSpatioTemporalConditionModel,
        vae: diffusers.AutoencoderKLTemporalDecoder,
        image_encoder: CLIPVisionModelWithProjection,
        scheduler: diffusers.EulerDiscreteScheduler,
        image_mean: tuple[float, ...] = CLIP_MEAN,
        image_std: tuple[float, ...] = CLIP_STD,
        norm_groups: int | None = None,
    ) -> None:
        super().__init__()
        kind = (scheduler.config.prediction_type, scheduler.config.timestep_type)
        if kind != ("v_prediction", "continuous"):
            raise UserError(
                "an SVD prior needs a scheduler with prediction_type 'v_prediction' and timestep_type 'continuous', "
                f"got {kind[0]!r} and {kind[1]!r}"
            )
        self.unet = unet
        self.vae = vae
        self.image_encoder = without_position_ids(image_encoder)
        self.scheduler = scheduler
        self.image_mean, self.image_std = tuple(image_mean), tuple(image_std)
        for network in (unet, vae):
            flatten_temporal_convolutions(network)
        self.norm_groups = norm_groups
        if norm_groups is not None:
            for module in (*unet.modules(), *vae.modules()):
                if isinstance(module, nn.GroupNorm):
                    module.num_groups = norm_groups
        self.register_buffer("_mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)

    @property
    def num_frames(self) -> int:
        """Frames of a clip that the prior was trained for."""
        return self.unet.config.num_frames

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level that the prior was trained for."""
        config = self.scheduler.config
        if config.sigma_min is None or config.sigma_max is None:
            sigmas = edm.sigma_from_alpha_bar(self.scheduler.alphas_cumprod.double())
            return sigmas[0].item(), sigmas[-1].item()
        return config.sigma_min, config.sigma_max

    @property
    def downscale(self) -> int:
        """Side of the square of pixels behind one latent position."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square that the UNet's ``sample_size`` names.

        The published models name 768 pixels, were trained on 576 x 1024, and draw other sizes too.
        """
        return self.unet.config.sample_size * self.downscale

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a frame.

        Raises:
            UserError: the UNet cannot halve frames of that size as often as it does.
        """
        step = self.downscale * 2**self.unet.num_upsamplers
        if height % step or width % step:
            raise UserError(f"this prior needs frames whose sides divide by {step}, got {height} x {width}")
        return self.unet.config.out_channels, height // self.downscale, width // self.downscale

    # Pictures and frames ----------------------------------------------------------------------------------------------

    def resize(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize images [N, 3, H, W] to (height, width), antialiased."""
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)

    def embed_images(self, images: Tensor) -> Tensor:
        """Image embeddings, not normalised: [N, 3, H, W] in [0, 1] -> [N, 1, D]."""
        size = (self.image_encoder.config.image_size,) * 2
        if images.shape[-2:] != size:
            images = resize_antialiased(images, size)
        pixels = ((images - self._mean) / self._std).to(self.image_encoder.dtype)
        return self.image_encoder(pixels).image_embeds[:, None]

    def encode_frames(self, images: Tensor, sample: bool = False) -> Tensor:
        """Unscaled latents of frames, the posterior's mean or a sample: [N, 3, H, W] in [0, 1] -> [N, C, h, w]."""
        posterior = self.vae.encode((images * 2 - 1).to(self.vae.dtype)).latent_dist
        return posterior.sample() if sample else posterior.mode()

    def encode(self, video: Tensor, sample: bool = False) -> Tensor:
        """Scaled latents of clips: [B, T, 3, H, W] in [0, 1] -> [B, T, C, h, w]."""
        latents = self.encode_frames(video.flatten(0, 1), sample) * self.vae.config.scaling_factor
        return latents.unflatten(0, video.shape[:2])

    def decode(self, latents: Tensor, chunk_size: int | None = None) -> Tensor:
        """Scaled latents [B, T, C, h, w] -> clips [B, T, 3, H, W] in [0, 1].

        The decoder looks across the frames that it gets together: ``chunk_size`` of them (all by default). Fewer need
        less memory, and flicker a little where chunks meet.
        """
        parts = []
        for part in latents.to(self.vae.dtype).split(chunk_size or latents.shape[1], dim=1):
            frames = self.vae.decode(part.flatten(0, 1) / self.vae.config.scaling_factor, num_frames=part.shape[1])
            parts.append(frames.sample.unflatten(0, part.shape[:2]))
        return (torch.cat(parts, 1).float() * 0.5 + 0.5).clamp(0, 1)

    def encode_condition(
        self,
        pictures: Tensor,
        size: tuple[int, int],
        noise_aug_strength: float | Tensor = 0.02,
        generator: torch.Generator | None = None,
    ) -> SVDCondition:
        """Encode pictures [N, 3, H, W] in [0, 1] for clips of (height, width).

        Args:
            noise_aug_strength: standard deviation of the noise on pixels in [-1, 1], one number or [N].
        """
        frames = self.resize(pictures, size)
        strength = torch.as_tensor(noise_aug_strength, dtype=frames.dtype, device=frames.device).view(-1, 1, 1, 1)
        device = frames.device if generator is None else generator.device
        noise = torch.randn(frames.shape, generator=generator, device=device, dtype=frames.dtype).to(frames.device)
        return SVDCondition(self.embed_images(pictures), self.encode_frames(frames + 0.5 * strength * noise))

    def time_ids(
        self,
        fps: float | Tensor,
        motion_bucket: float | Tensor,
        noise_aug_strength: float | Tensor,
        count: int,
    ) -> Tensor:
        """[count, 3]: frames per second less one, motion bucket, noise on the picture; numbers or [count] each."""
        values = (torch.as_tensor(value, dtype=torch.float32) for value in (fps, motion_bucket, noise_aug_strength))
        device = next(self.unet.parameters()).device
        fps, motion_bucket, strength = (value.to(device).expand(count) for value in values)
        return torch.stack([fps - 1, motion_bucket, strength], dim=-1)

    # Network ----------------------------------------------------------------------------------------------------------

    def denoise(self, noisy: Tensor, sigma: Tensor, condition: SVDCondition, time_ids: Tensor) -> Tensor:
        """Raw output F of the network, [B, T, C, h, w] in single precision.

        Args:
            noisy: z + sigma eps, [B, T, C, h, w].
            sigma: [B].
            time_ids: [B, 3].
        """
        _, _, c_in, c_noise = edm.scalings(sigma)
        picture = condition.latents[:, None].expand(-1, noisy.shape[1], -1, -1, -1)
        sample = torch.cat([noisy * c_in.view(-1, 1, 1, 1, 1), picture.to(noisy.dtype)], dim=2).to(self.unet.dtype)
        context = condition.embeddings.to(self.unet.dtype)
        return self.unet(sample, c_noise, context, time_ids.to(self.unet.dtype), return_dict=False)[0].float()

    def predict(
        self,
        noisy: Tensor,
        sigma: Tensor,
        condition: SVDCondition,
        time_ids: Tensor,
        guidance_scales: Tensor | None = None,
        max_batch: int | None = None,
    ) -> Tensor:
        """The clean latents that the network sees in noisy ones; all [B, T, C, h, w].

        Args:
            guidance_scales: weight of classifier-free guidance of every frame, [T]; None: no unconditional pass.
            max_batch: most clips that the UNet sees at once, conditional and unconditional ones counted.
        """
        rows = (noisy, sigma, condition.embeddings, condition.latents, time_ids)
        if guidance_scales is not None:
            nothing = (noisy, sigma, torch.zeros_like(rows[2]), torch.zeros_like(rows[3]), time_ids)
            rows = tuple(torch.cat(pair) for pair in zip(nothing, rows, strict=True))
        parts = zip(*(tensor.split(max_batch or len(tensor)) for tensor in rows), strict=True)
        output = torch.cat([self.denoise(x, s, SVDCondition(e, p), ids) for x, s, e, p, ids in parts])
        if guidance_scales is not None:
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance_scales.view(1, -1, 1, 1, 1) * (conditional - unconditional)
        return edm.clean_from_output(output, noisy, sigma)

    @torch.no_grad()
    def sample(
        self,
        pictures: Tensor,
        frames: int | None = None,
        size: tuple[int, int] | None = None,
        fps: float | Tensor = 7,
        motion_bucket: float | Tensor = 127,
        noise_aug_strength: float = 0.02,
        steps: int = 25,
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 3.0,
        decode_chunk_size: int | None = None,
        generator: torch.Generator | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw a clip from each picture by Euler's method: [B, 3, H, W] in [0, 1] -> [B, T, 3, h, w] in [0, 1].

        Args:
            frames: T; as trained by default.
            size: (h, w) of the clip; by default the square of ``image_size``.
            fps, motion_bucket: numbers or [B].
            max_guidance_scale: at the last frame; 1 or less turns classifier-free guidance off.
            generator: draws the noise on the pictures, then that of the clips.
        """
        size = size or (self.image_size, self.image_size)
        frames = frames or self.num_frames
        count, device = len(pictures), pictures.device
        shape = (count, frames, *self.latent_shape(*size))
        condition = self.encode_condition(pictures, size, noise_aug_strength, generator)
        time_ids = self.time_ids(fps, motion_bucket, noise_aug_strength, count)
        scales = None
        if max_guidance_scale > 1:
            scales = edm.frame_guidance_scales(frames, min_guidance_scale, max_guidance_scale, device)
        sigmas = edm.karras_sigmas(steps, *self.sigma_range).float().tolist()
        noise_device = device if generator is None else generator.device
        latents = torch.randn(shape, generator=generator, device=noise_device).to(device)
        latents = latents * (sigmas[0] ** 2 + 1) ** 0.5
        for step, (sigma, next_sigma) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            clean = self.predict(latents, latents.new_full((count,), sigma), condition, time_ids, scales)
            latents = edm.euler_step(latents, clean, sigma, next_sigma)
            if on_step is not None:
                on_step(step, latents)
        return self.decode(latents, decode_chunk_size)

    # Files ------------------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> SVDModel:
        """Load from a folder in diffusers layout, strictly.

        Args:
            folder: holds ``unet``, ``vae``, ``image_encoder`` and ``scheduler``; ``feature_extractor`` if there is one
                names the normalisation of the image encoder's pixels.

        Raises:
            UserError: a part is missing or does not fit.
        """
        folders = {part: part_folder(folder, part) for part in SVD_PARTS}
        path = Path(folder) / "feature_extractor" / "preprocessor_config.json"
        preprocessor = json.loads(path.read_text()) if path.is_file() else {}
        model = cls(
            unet=load_network(diffusers.UNetSpatioTemporalConditionModel, folders["unet"], dtype),
            vae=load_network(diffusers.AutoencoderKLTemporalDecoder, folders["vae"], dtype),
            image_encoder=load_network(CLIPVisionModelWithProjection, folders["image_encoder"], dtype),
            scheduler=diffusers.EulerDiscreteScheduler.from_config(
                read_config(folders["scheduler"], diffusers.EulerDiscreteScheduler.config_name)
            ),
            image_mean=tuple(preprocessor.get("image_mean", CLIP_MEAN)),
            image_std=tuple(preprocessor.get("image_std", CLIP_STD)),
            norm_groups=read_index(Path(folder)).get("norm_groups"),
        )
        return model.to(device) if device is not None else model

    def save(
        self,
        folder: str | Path,
        dtype: torch.dtype = torch.float16,
        max_shard_size: str = MAX_SHARD_SIZE,
        int8: bool = False,
    ) -> None:
        """Write the folder that ``load`` reads; without ``int8`` and ``norm_groups``, diffusers' own pipeline too."""
        folder = Path(folder)
        for part in ("unet", "vae", "image_encoder"):
            save_network(getattr(self, part), folder / part, dtype, max_shard_size, int8)
        self.scheduler.save_pretrained(folder / "scheduler")
        size = self.image_encoder.config.image_size
        preprocessor = {
            "image_processor_type": "CLIPImageProcessor",
            "crop_size": {"height": size, "width": size},
            "size": {"shortest_edge": size},
            "image_mean": self.image_mean,
            "image_std": self.image_std,
        }
        (folder / "feature_extractor").mkdir(exist_ok=True)
        path = folder / "feature_extractor" / "preprocessor_config.json"
        path.write_text(json.dumps(preprocessor, indent=2) + "\n")
        index = {
            "_class_name": "StableVideoDiffusionPipeline",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
            "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
        }
        if self.norm_groups is not None:
            index |= {"_class_name": "SVDModel", "norm_groups": self.norm_groups}
        write_index(folder, index)


def load_svd(name: str, device: torch.device | str = "cpu") -> SVDModel:
    """A frozen SVD in single precision, from whatever ``name`` stands for: see :func:`resolve_prior`.

    Raises:
        UserError: nothing of that name exists, it is no folder in diffusers layout, or diffusers is too old.
    """
    require_diffusers("0.24", "Stable Video Diffusion")
    weights = resolve_prior(name, SVD_PARTS)
    if weights.kind != "folder":
        raise UserError(
            f"{weights.path} is a single checkpoint; SVD is read from a folder in diffusers layout, "
            "such as the hub's stabilityai/stable-video-diffusion-img2vid"
        )
    return SVDModel.load(weights.path, device=device).requires_grad_(False).eval()
