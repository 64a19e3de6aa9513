"""``nerf-volume-renderer``: emission and absorption along rays through a static field, by the extension's march."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from threestudio import register
from threestudio.models.background.base import BaseBackground
from threestudio.models.estimators import ImportanceEstimator
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.renderers.base import VolumeRenderer
from threestudio.utils.errors import UserError
from threestudio.utils.ops import chunk_batch, validate_empty_rays
from threestudio.utils.values import Count, NotNegative, Positive, Whole
from threestudio_4d.renderer.volume.compositing import sample_weights, sum_over_rays
from threestudio_4d.renderer.volume.march import march
from threestudio_4d.renderer.volume.occupancy import OccupancyGrid

__all__ = ["NeRFVolumeRenderer"]

#: length of the diagonal of the scene box over its edge, as upstream's step length has it
BOX_DIAGONAL = 1.732
OCCUPANCY_RESOLUTION = 32
OCCUPANCY_INTERVAL = 16

#: a sample is not asked for its colour when less light reaches it, or when it absorbs less of it
LEAST_LIGHT, LEAST_ALPHA = 1e-4, 0.01


class RaySamples(NamedTuple):
    """Samples of all rays, packed: index of the ray [M], start and end of the interval [M]."""

    rays: Tensor
    starts: Tensor
    ends: Tensor


@register("nerf-volume-renderer")
class NeRFVolumeRenderer(VolumeRenderer):
    """Render ``points -> density, features`` with constant steps in occupied cells, or by importance."""

    @dataclass
    class Config(VolumeRenderer.Config):
        num_samples_per_ray: Count = 512
        eval_chunk_size: Whole = 160000
        randomized: bool = True
        near_plane: NotNegative = 0.0
        far_plane: Positive = 1e10
        return_comp_normal: bool = False
        return_normal_perturb: bool = False
        estimator: Annotated[str, Literal["occgrid", "importance", "proposal"]] = "occgrid"
        grid_prune: bool = True
        prune_alpha_threshold: bool = True
        num_samples_per_ray_importance: Count = 64
        # of the estimator "proposal", which upstream has and this host does not
        proposal_network_config: dict | None = None
        prop_optimizer_config: dict | None = None
        prop_scheduler_config: dict | None = None
        num_samples_per_ray_proposal: Count = 64

    cfg: Config

    def configure(self, geometry: BaseImplicitGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        super().configure(geometry, material, background)
        cfg = self.cfg
        if cfg.estimator == "occgrid":
            self.step = BOX_DIAGONAL * 2 * cfg.radius / cfg.num_samples_per_ray
            self.occupancy = OccupancyGrid(cfg.radius, OCCUPANCY_RESOLUTION, times=1)
            self._refreshed_at = -1
        elif cfg.estimator == "importance":
            self.estimator = ImportanceEstimator()
        else:
            raise UserError("renderer.estimator is 'occgrid' or 'importance' here; upstream has 'proposal' too.")

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Refresh the occupancy grid every 16 steps of training; a repeated call does nothing."""
        if self.cfg.estimator != "occgrid" or not self.cfg.grid_prune or not self.training or on_load_weights:
            return
        if global_step % OCCUPANCY_INTERVAL == 0 and global_step != self._refreshed_at:
            self._refreshed_at = global_step
            self.occupancy.refresh(lambda points, times: self._density(points)[None], self.step, global_step)

    def forward(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        light_positions: Tensor,
        bg_color: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Render B images.

        Args:
            rays_o, rays_d: [B, H, W, 3].
            light_positions: [B, 3].
            bg_color: [B, 3] or [B, H, W, 3] instead of the background's colour.
            kwargs: handed to the material in training.

        Returns:
            ``comp_rgb``, ``comp_rgb_fg``, ``comp_rgb_bg`` [B, H, W, C]; ``opacity``, ``depth``, ``z_variance``
            [B, H, W, 1]; ``comp_normal`` [B, H, W, 3] in evaluation, and in training if configured, where the material
            wants normals. In training also, for each of M samples, ``weights``, ``t_points``, ``t_intervals`` [M, 1],
            ``t_dirs``, ``points`` [M, 3], ``ray_indices`` [M], and what the geometry gave.
        """
        shape = rays_o.shape[:3]
        origins, directions = rays_o.reshape(-1, 3).float(), rays_d.reshape(-1, 3).float()
        n_rays = len(origins)
        rays, starts, ends = validate_empty_rays(*self._samples(origins, directions))
        midpoints, intervals = ((starts + ends) / 2)[:, None], (ends - starts)[:, None]
        t_dirs = directions[rays]
        points = origins[rays] + midpoints * t_dirs
        lights = light_positions[rays // (shape[1] * shape[2])]

        with_normals = self.material.requires_normal
        inputs = {"viewdirs": t_dirs, "positions": points, "light_positions": lights}
        if self.training:
            field = self.geometry(points, output_normal=with_normals)
            colours = self.material(**inputs, **field, **kwargs)
            backdrop = self.background(dirs=rays_d)
        else:
            chunk = self.cfg.eval_chunk_size
            field = chunk_batch(self.geometry, chunk, points, output_normal=with_normals)
            colours = chunk_batch(self.material, chunk, **inputs, **field)
            backdrop = chunk_batch(self.background, chunk, dirs=rays_d)

        weights = sample_weights((field["density"] * intervals).T, 1.0, rays, n_rays).T  # [M, 1]

        def per_pixel(values: Tensor) -> Tensor:
            return sum_over_rays((weights * values)[None], rays, n_rays)[0]

        opacity, depth, foreground = per_pixel(torch.ones_like(weights)), per_pixel(midpoints), per_pixel(colours)
        # variance of the distance under normalised weights (HiFA, equation 8), where a ray is mostly stopped
        mean = depth / opacity.clamp(min=1e-5)
        variance = per_pixel((midpoints - mean[rays]).square()) / opacity.clamp(min=1e-5) * (opacity > 0.5)
        if bg_color is None:
            bg_color = backdrop
        elif bg_color.ndim == 2:
            bg_color = bg_color[:, None, None]
        foreground, opacity = foreground.view(*shape, -1), opacity.view(*shape, 1)
        output = {
            "comp_rgb": foreground + bg_color * (1 - opacity),
            "comp_rgb_fg": foreground,
            "comp_rgb_bg": backdrop,
            "opacity": opacity,
            "depth": depth.view(*shape, 1),
            "z_variance": variance.view(*shape, 1),
        }
        if "normal" in field and (self.cfg.return_comp_normal or not self.training):
            normal = F.normalize(per_pixel(field["normal"]), dim=-1).view(*shape, 3)
            output["comp_normal"] = (normal + 1) / 2 * opacity
        if self.training:
            output |= {
                "weights": weights,
                "t_points": midpoints,
                "t_intervals": intervals,
                "t_dirs": t_dirs,
                "ray_indices": rays,
                "points": points,
                **field,
            }
            if "normal" in field and self.cfg.return_normal_perturb:
                nearby = points.detach() + torch.randn_like(points) * 1e-2
                output["normal_perturb"] = self.geometry(nearby, output_normal=True)["normal"]
        return output

    def _density(self, points: Tensor) -> Tensor:
        """Densities [..., 1] of points [..., 3] without gradient, in chunks."""
        return chunk_batch(self.geometry.forward_density, self.cfg.eval_chunk_size, points)

    @torch.no_grad()
    def _samples(self, origins: Tensor, directions: Tensor) -> RaySamples:
        if self.cfg.estimator == "importance":
            return self._importance_samples(origins, directions)
        offsets = None
        if self.training and self.cfg.randomized:
            offsets = torch.rand_like(origins[:, 0]) * self.step
        lengths = directions.norm(dim=-1)  # not 1 with data.rays_d_normalize=false
        rays, midpoints = march(origins, directions / lengths[:, None], self.occupancy, self.step, offsets)
        t, half = midpoints / lengths[rays], 0.5 * self.step / lengths[rays]
        keep = (t >= self.cfg.near_plane) & (t <= self.cfg.far_plane)
        if self.cfg.grid_prune and self.cfg.prune_alpha_threshold and len(t):
            depth = self._density(origins[rays] + t[:, None] * directions[rays])[:, 0] * 2 * half
            alpha = -torch.expm1(-depth)
            weights = sample_weights(depth[None], 1.0, rays, len(origins))[0]
            least = self.occupancy.occs.mean().clamp(max=LEAST_ALPHA)
            keep &= (alpha >= least) & (weights >= LEAST_LIGHT * alpha)
        rays, t, half = rays[keep], t[keep], half[keep]
        return RaySamples(rays, t - half, t + half)

    def _importance_samples(self, origins: Tensor, directions: Tensor) -> RaySamples:
        def density(starts: Tensor, ends: Tensor) -> Tensor:
            t = (starts + ends)[..., None] / 2
            points = origins[:, None] + t * directions[:, None]
            return self._density(points.reshape(-1, 3)).view(starts.shape)

        starts, ends = self.estimator.sampling(
            [density],
            [self.cfg.num_samples_per_ray_importance],
            self.cfg.num_samples_per_ray,
            len(origins),
            self.cfg.near_plane,
            self.cfg.far_plane,
            stratified=self.training and self.cfg.randomized,
            device=origins.device,
        )
        rays = torch.arange(len(origins), device=origins.device).repeat_interleave(starts.shape[1])
        return RaySamples(rays, starts.flatten(), ends.flatten())
