"""Training pairs for a novel-view prior: one pose seen by a conditioning and a target camera, under one light.

Everything is drawn and rendered on the meshes' device, from one matrix of uniform numbers a batch; nothing waits for
the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from threestudio.utils.typing import Tensor

from ..rendering.looks import SUN_AZIMUTH, sun_azimuths, varied_colours, varied_lights
from ..rendering.rasterise import DISTANCE, Lights, Shot, on_white, render
from ..rendering.scenes import PosedMeshes

EVAL_AZIMUTHS = (-75.0, 15.0, 105.0, 195.0)
DRAWS = 40  # uniform numbers a pair uses


@dataclass
class PairBatch:
    """B pairs. Images [B, 3, S, S] in [0, 1] on white, alphas [B, 1, S, S], angles in degrees [B]."""

    cond: Tensor
    target: Tensor
    cond_alpha: Tensor
    target_alpha: Tensor
    cond_elevation: Tensor
    cond_azimuth: Tensor
    cond_distance: Tensor
    elevation: Tensor
    azimuth: Tensor
    distance: Tensor
    pose: Tensor

    def asdict(self) -> dict[str, Tensor]:
        return dict(vars(self))


class PairSampler:
    """Draws training pairs without end.

    Both images show the same pose under the same light, with the same change of scale, offset and colour. Half of the
    pairs are mirrored (image left to right, azimuth with its sign changed), half have their colour channels permuted.

    Args:
        meshes: where poses come from.
        resolution: S of the images.
        seed: of the generator, which lives on the meshes' device; ``generator.get_state()`` resumes it.
        validation: draw from the held-out assets instead (None: from all).
        backend: of the rasteriser.
    """

    @dataclass
    class Config:
        animated_share: float = 0.7
        cond_level_share: float = 0.75  # conditioning cameras at elevation 0, distance 2
        target_level_share: float = 0.5  # target cameras at elevation 0
        near_distance_share: float = 0.75  # target cameras at distance 2
        canonical_scale_share: float = 0.6  # objects at the benchmark's scale, centred
        standard_light_share: float = 0.75  # sun where the benchmark has it, seen from the conditioning camera
        flip_share: float = 0.5
        permute_share: float = 0.5
        tint_share: float = 0.5

    def __init__(
        self,
        meshes: PosedMeshes,
        resolution: int = 64,
        seed: int = 0,
        validation: bool | None = False,
        backend: str = "auto",
        cfg: Config | None = None,
    ):
        self.cfg = self.Config() if cfg is None else cfg
        self.meshes, self.resolution, self.backend = meshes, resolution, backend
        self.generator = torch.Generator(device=meshes.device).manual_seed(seed)
        self.poses = meshes.sampler(validation, self.cfg.animated_share)

    def __call__(self, count: int) -> PairBatch:
        """Draws and renders ``count`` pairs."""
        u = torch.rand(DRAWS, count, generator=self.generator, device=self.meshes.device)
        return self.from_uniform(u)

    def from_uniform(self, u: Tensor) -> PairBatch:
        """The pairs that uniform numbers u [DRAWS, B] stand for."""
        cfg = self.cfg
        zero = torch.zeros_like(u[0])

        def between(row: int, low: float, high: float) -> Tensor:
            return low + (high - low) * u[row]

        pose = self.poses(u[0:3])
        level = u[3] < cfg.cond_level_share
        cond_elevation = torch.where(level, zero, between(4, -10, 45))
        cond_distance = torch.where(level, zero + DISTANCE, between(5, 1.7, 2.2))
        cond_azimuth = between(6, -180, 180)
        elevation = torch.where(u[7] < cfg.target_level_share, zero, between(8, -15, 60))
        distance = torch.where(u[9] < cfg.near_distance_share, zero + DISTANCE, between(10, 1.7, 2.2))
        azimuth = between(11, -180, 180)
        flip = u[12] < cfg.flip_share

        canonical = u[13] < cfg.canonical_scale_share
        scale = torch.where(canonical, zero + 1, between(14, 0.7, 1.12))
        offset = torch.stack([torch.where(canonical, zero, between(15 + i, -0.06, 0.06)) for i in range(3)], -1)
        sun = sun_azimuths(u[18:21], cfg.standard_light_share)
        sun = cond_azimuth + torch.where(flip, -sun, sun)  # mirrored, it stands where it was asked for
        lights = varied_lights(u[21:27], sun)
        colours = varied_colours(u[27:32], cfg.permute_share, cfg.tint_share)
        shot = Shot(
            pose=torch.cat([pose, pose]),
            elevation=torch.cat([cond_elevation, elevation]),
            azimuth=torch.cat([cond_azimuth, azimuth]),
            distance=torch.cat([cond_distance, distance]),
            lights=Lights(**{k: torch.cat([v, v]) for k, v in vars(lights).items()}),
            scale=scale.repeat(2),
            offset=offset.repeat(2, 1),
            colour=colours.repeat(2, 1, 1),
            flip=flip.repeat(2),
        )
        sign = torch.where(flip, -1.0, 1.0)
        return self._render(shot, pose, sign)

    def _render(self, shot: Shot, pose: Tensor, sign: Tensor) -> PairBatch:
        rgba = render(self.meshes, shot, self.resolution, backend=self.backend)
        images, alpha = on_white(rgba), rgba[..., 3][:, None].contiguous()
        n = len(pose)
        return PairBatch(
            cond=images[:n], target=images[n:], cond_alpha=alpha[:n], target_alpha=alpha[n:],
            cond_elevation=shot.elevation[:n], cond_azimuth=shot.azimuth[:n] * sign, cond_distance=shot.distance[:n],
            elevation=shot.elevation[n:], azimuth=shot.azimuth[n:] * sign, distance=shot.distance[n:], pose=pose,
        )  # fmt: skip


def eval_pairs(
    meshes: PosedMeshes,
    count: int,
    resolution: int = 64,
    seed: int = 1234,
    validation: bool | None = True,
    backend: str = "auto",
) -> PairBatch:
    """Pairs as the benchmark has them, the same on every device: level cameras at distance 2, the target -75, 15, 105
    or 195 degrees away from the conditioning camera in turn, the standard light, plain colours, held-out assets."""
    device = meshes.device
    sampler = PairSampler(meshes, resolution, validation=validation, backend=backend)
    u = torch.rand(4, count, generator=torch.Generator().manual_seed(seed)).to(device)
    pose = sampler.poses(u[:3])
    cond = u[3] * 360 - 180
    turn = torch.tensor(EVAL_AZIMUTHS, device=device).repeat(count // len(EVAL_AZIMUTHS) + 1)[:count]
    zero = torch.zeros_like(cond).repeat(2)
    lights = Lights.standard(2 * count, device, azimuth=(cond + SUN_AZIMUTH).repeat(2))
    shot = Shot(pose.repeat(2), zero, torch.cat([cond, cond + turn]), zero + DISTANCE, lights)
    return sampler._render(shot, pose, torch.ones_like(cond))
