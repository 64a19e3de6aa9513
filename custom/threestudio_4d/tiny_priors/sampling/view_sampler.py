"""Training pictures for image and multi-view priors: a pose seen by cameras evenly around it, at one moment.

Everything is drawn and rendered on the meshes' device, from one matrix of uniform numbers a batch; nothing waits for
the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from threestudio.utils.typing import Float, Tensor

from ..assets.captions import Captions
from ..rendering.looks import between, repeated, sun_azimuths, varied_colours, varied_lights
from ..rendering.rasterise import DISTANCE, Shot, camera_to_world, on_white, render
from ..rendering.scenes import PosedMeshes

DRAWS = 30  # uniform numbers a sample uses


@dataclass
class ViewBatch:
    """B samples of V views. Angles in degrees; azimuth 0 sees an asset's front."""

    images: Float[Tensor, "B V 3 S S"]  # in [0, 1], on white
    alpha: Float[Tensor, "B V 1 S S"]
    c2w: Float[Tensor, "B V 4 4"]  # OpenGL camera poses; the translation is the camera's position
    caption: Tensor  # [B] long, a sentence of ``ViewSampler.captions``
    elevation: Tensor  # [B, V]
    azimuth: Tensor  # [B, V]
    distance: Tensor  # [B, V]
    pose: Tensor  # [B] long

    def asdict(self) -> dict[str, Tensor]:
        return dict(vars(self))


class ViewSampler:
    """Draws sets of views without end: V cameras 360 / V degrees apart at one elevation and distance.

    The light stands in the world, so views differ in shading as they do around a real thing. V = 1 gives single
    pictures.

    Args:
        meshes: where poses come from.
        views: V.
        resolution: S.
        seed: of the generator, which lives on the meshes' device; ``generator.get_state()`` resumes it.
        validation: draw from the held-out assets instead (None: from all).
        captions: sentences of these meshes; ``Captions.from_meshes(meshes)`` by default.
        backend: of the rasteriser.
    """

    @dataclass
    class Config:
        animated_share: float = 0.5
        level_share: float = 0.4  # elevation 0
        near_distance_share: float = 0.75  # cameras at distance 2
        canonical_scale_share: float = 0.6  # objects at the benchmark's scale, centred
        standard_light_share: float = 0.5  # sun near the benchmark's azimuth
        flip_share: float = 0.5
        permute_share: float = 0.0  # colour channels exchanged: captions would name wrong colours
        tint_share: float = 0.25
        action_share: float = 0.5  # captions that say what happens; the rest only name the asset

    def __init__(
        self,
        meshes: PosedMeshes,
        views: int = 4,
        resolution: int = 64,
        seed: int = 0,
        validation: bool | None = False,
        captions: Captions | None = None,
        backend: str = "auto",
        cfg: Config | None = None,
    ) -> None:
        self.cfg = self.Config() if cfg is None else cfg
        self.meshes, self.views, self.resolution, self.backend = meshes, views, resolution, backend
        self.captions = Captions.from_meshes(meshes) if captions is None else captions
        self.generator = torch.Generator(device=meshes.device).manual_seed(seed)
        self.poses = meshes.sampler(validation, self.cfg.animated_share)

    def __call__(self, count: int) -> ViewBatch:
        """Draws and renders ``count`` samples."""
        u = torch.rand(DRAWS, count, generator=self.generator, device=self.meshes.device)
        return self.from_uniform(u)

    def from_uniform(self, u: Float[Tensor, "30 B"]) -> ViewBatch:
        """The samples that uniform numbers stand for."""
        cfg, views, count, zero = self.cfg, self.views, u.shape[1], torch.zeros_like(u[0])
        pose = self.poses(u[0:3])

        def every(value: Tensor) -> Tensor:
            return value.repeat_interleave(views, 0)

        elevation = every(torch.where(u[3] < cfg.level_share, zero, between(u[4], -10, 45)))
        distance = every(torch.where(u[5] < cfg.near_distance_share, zero + DISTANCE, between(u[6], 1.7, 2.2)))
        turns = torch.arange(views, device=u.device) * (360.0 / views)
        azimuth = (between(u[7], -180, 180)[:, None] + turns).flatten()
        azimuth = (azimuth + 180) % 360 - 180
        sign = torch.where(u[8] < cfg.flip_share, -1.0, 1.0)
        canonical = u[9] < cfg.canonical_scale_share
        scale = torch.where(canonical, zero + 1, between(u[10], 0.7, 1.12))
        offset = torch.where(canonical, zero, between(u[11:14], -0.06, 0.06)).T
        # A mirrored image shows the mirrored world: cameras and sun stand at the azimuths of opposite sign.
        lights = varied_lights(u[17:23], sign * sun_azimuths(u[14:17], cfg.standard_light_share))
        colours = varied_colours(u[23:28], cfg.permute_share, cfg.tint_share)
        shot = Shot(
            every(pose), elevation, every(sign) * azimuth, distance, repeated(lights, views), every(scale),
            every(offset), every(colours), every(sign < 0),
        )  # fmt: skip
        rgba = render(self.meshes, shot, self.resolution, backend=self.backend)
        size = (count, views, -1, self.resolution, self.resolution)
        return ViewBatch(
            images=on_white(rgba).view(size), alpha=rgba[..., 3].reshape(size),
            c2w=camera_to_world(elevation, azimuth, distance).view(count, views, 4, 4),
            caption=self.captions.draw(pose, self.meshes.pose_asset, u[28:30], cfg.action_share),
            elevation=elevation.view(count, views), azimuth=azimuth.view(count, views),
            distance=distance.view(count, views), pose=pose,
        )  # fmt: skip
