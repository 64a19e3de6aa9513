"""Training views for a network from views to Gaussians: a pose from four sides, and from anywhere else.

Everything is drawn and rendered on the meshes' device, from one matrix of uniform numbers a batch; nothing waits for
the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from threestudio.utils.typing import Float, Tensor

from ..rendering.looks import between, repeated, sun_azimuths, varied_colours, varied_lights
from ..rendering.rasterise import DISTANCE, Shot, camera_to_world, render
from ..rendering.scenes import PosedMeshes

SIDES = 4
SCENE_DRAWS, VIEW_DRAWS = 28, 5  # uniform numbers of a scene, and of each further view


@dataclass
class SplatViews:
    """B scenes seen from ``SIDES`` sides, then from further views: V in all. Straight alpha.

    The first camera stands at azimuth 0, the other sides a quarter turn apart at its elevation and distance.
    """

    colour: Float[Tensor, "B V S S 3"]  # in [0, 1]; anything where nothing is seen
    alpha: Float[Tensor, "B V S S 1"]
    c2w: Float[Tensor, "B V 4 4"]  # OpenGL camera poses
    elevation: Float[Tensor, "B V"]  # degrees
    azimuth: Float[Tensor, "B V"]
    distance: Float[Tensor, "B V"]

    def on_white(self, views: slice = slice(None)) -> Float[Tensor, "B V 3 S S"]:
        """Some of the pictures as a network takes them."""
        alpha = self.alpha[:, views]
        return (self.colour[:, views] * alpha + 1 - alpha).permute(0, 1, 4, 2, 3)


class SplatSampler:
    """Draws scenes without end; poses, light, place and colours as ``PairSampler`` does.

    Args:
        meshes: where poses come from.
        further: views beside the sides.
        resolution: S.
        seed: of the generator, which lives on the meshes' device.
        validation: draw from the held-out assets instead (None: from all).
        backend: of the rasteriser.
    """

    @dataclass
    class Config:
        animated_share: float = 0.7
        level_share: float = 0.75  # sides at elevation 0
        further_level_share: float = 0.5  # further views at elevation 0
        near_distance_share: float = 0.75  # cameras at distance 2
        canonical_scale_share: float = 0.6  # objects at the benchmark's scale, centred
        standard_light_share: float = 0.75  # sun where the benchmark has it, seen from the first camera
        flip_share: float = 0.5
        permute_share: float = 0.5
        tint_share: float = 0.5

    def __init__(
        self,
        meshes: PosedMeshes,
        further: int = 4,
        resolution: int = 64,
        seed: int = 0,
        validation: bool | None = False,
        backend: str = "auto",
        cfg: Config | None = None,
    ) -> None:
        self.cfg = self.Config() if cfg is None else cfg
        self.meshes, self.further, self.resolution, self.backend = meshes, further, resolution, backend
        self.generator = torch.Generator(device=meshes.device).manual_seed(seed)
        self.poses = meshes.sampler(validation, self.cfg.animated_share)

    def __call__(self, count: int) -> SplatViews:
        """Draws and renders ``count`` scenes."""
        rows = SCENE_DRAWS + VIEW_DRAWS * self.further
        return self.from_uniform(torch.rand(rows, count, generator=self.generator, device=self.meshes.device))

    def from_uniform(self, u: Float[Tensor, "R B"]) -> SplatViews:
        """The scenes that uniform numbers stand for."""
        cfg, count, zero = self.cfg, u.shape[1], torch.zeros_like(u[0])
        pose = self.poses(u[0:3])
        elevation = torch.where(u[3] < cfg.level_share, zero, between(u[4], -10, 45))
        distance = torch.where(u[5] < cfg.near_distance_share, zero + DISTANCE, between(u[6], 1.7, 2.2))
        start = between(u[7], -180, 180)
        sign = torch.where(u[8] < cfg.flip_share, -1.0, 1.0)
        canonical = u[9] < cfg.canonical_scale_share
        scale = torch.where(canonical, zero + 1, between(u[10], 0.7, 1.12))
        offset = torch.where(canonical, zero, between(u[11:14], -0.06, 0.06)).T
        # A mirrored picture shows the mirrored world: cameras and sun stand at the azimuths of opposite sign.
        sun = start + sign * sun_azimuths(u[14:17], cfg.standard_light_share)
        lights = varied_lights(u[17:23], sun)
        colours = varied_colours(u[23:28], cfg.permute_share, cfg.tint_share)

        turns = torch.arange(SIDES, device=u.device) * (360.0 / SIDES)
        v = u[SCENE_DRAWS:].view(self.further, VIEW_DRAWS, count).permute(1, 2, 0)  # [draws, B, further]
        level = v[0] < cfg.further_level_share
        elevations = torch.cat(
            [elevation[:, None].expand(-1, SIDES), torch.where(level, 0.0, between(v[1], -15, 60))], 1
        )
        azimuths = torch.cat([turns.expand(count, -1), between(v[2], -180, 180)], 1)  # seen from the first camera
        near = v[3] < cfg.near_distance_share
        distances = torch.cat(
            [distance[:, None].expand(-1, SIDES), torch.where(near, DISTANCE, between(v[4], 1.7, 2.2))], 1
        )
        views = SIDES + self.further
        shot = Shot(
            pose.repeat_interleave(views), elevations.flatten(), (start[:, None] + sign[:, None] * azimuths).flatten(),
            distances.flatten(), repeated(lights, views), scale.repeat_interleave(views),
            offset.repeat_interleave(views, 0), colours.repeat_interleave(views, 0),
            (sign < 0).repeat_interleave(views),
        )  # fmt: skip
        rgba = render(self.meshes, shot, self.resolution, backend=self.backend)
        rgba = rgba.view(count, views, self.resolution, self.resolution, 4)
        c2w = camera_to_world(elevations.flatten(), azimuths.flatten(), distances.flatten())
        return SplatViews(rgba[..., :3], rgba[..., 3:], c2w.view(count, views, 4, 4), elevations, azimuths, distances)
