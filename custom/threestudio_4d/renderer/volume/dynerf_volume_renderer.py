"""Consistent4D's volume renderer: one set of rays and samples, an image for every level of the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt, Interval, Le

import threestudio
from threestudio.models.renderers.base import VolumeRenderer
from threestudio.utils.typing import Float, Tensor

from ...batch import check_rest_of_batch
from ...values import Count, Whole
from .compositing import sample_weights, sum_over_rays
from .march import SAMPLERS, Samples, march
from .occupancy import OccupancyGrid

#: Length of the diagonal of the scene box over its edge, as the published step length has it.
BOX_DIAGONAL = 1.732

#: Weight below which a sample does not show in the normals of evaluation.
VISIBLE_WEIGHT = 1e-4


@threestudio.register("dynerf-volume-renderer")
class DyNeRFVolumeRenderer(VolumeRenderer):
    """Render a field ``(x, t) -> density, colour`` of L levels with constant steps through its occupied cells."""

    @dataclass
    class Config(VolumeRenderer.Config):
        #: samples on the diagonal of the scene box; sets the step length 1.732 * 2 * radius / num_samples_per_ray
        num_samples_per_ray: Annotated[int, Interval(ge=1, le=65536)] = 256
        #: shift every ray's samples by one uniform draw in [0, step) in training
        randomized: bool = True
        #: samples evaluated at once when not training
        eval_chunk_size: Count = 160000
        #: skip cells that the occupancy grid holds empty; False samples the whole box
        grid_prune: bool = True
        occupancy_resolution: Annotated[int, Interval(ge=1, le=1024)] = 32
        #: times at which each visited cell is looked at in one refresh, stratified over [0, 1]
        occupancy_times: Count = 4
        #: optimizer steps between refreshes of the occupancy grid
        occupancy_interval: Count = 16
        occupancy_warmup_steps: Whole = 256
        #: also render comp_normal in training
        return_comp_normal: bool = False
        #: normals at the samples in training (for the orientation and smoothness losses)
        output_normal: bool = True
        #: also normals at points jittered by normal_perturb_std
        return_normal_perturb: bool = False
        normal_perturb_std: Annotated[float, Interval(ge=0)] = 0.01
        #: at most this share of the samples gets normals in training, drawn at random; 1 is all, as published
        normal_fraction: Annotated[float, Gt(0), Le(1)] = 1.0
        #: at most this many samples get normals in training; 0 is no limit, as published
        max_normal_samples: Whole = 0
        sampler: Annotated[str, Literal[SAMPLERS]] = "auto"

    cfg: Config

    def configure(self, geometry: Any, material: Any, background: Any) -> None:
        super().configure(geometry, material, background)
        cfg = self.cfg
        self.step = BOX_DIAGONAL * 2 * cfg.radius / cfg.num_samples_per_ray
        self.occupancy = OccupancyGrid(
            cfg.radius, cfg.occupancy_resolution, cfg.occupancy_times, warmup_steps=cfg.occupancy_warmup_steps
        )
        self._refreshed_at = -1

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Refresh the occupancy grid every ``occupancy_interval`` steps of training; a repeated call does nothing."""
        if not (self.training and self.cfg.grid_prune) or on_load_weights or global_step == self._refreshed_at:
            return
        if global_step % self.cfg.occupancy_interval == 0:
            self._refreshed_at = global_step
            self.occupancy.refresh(self._density_in_chunks, self.step, global_step)

    def _density_in_chunks(self, points: Tensor, timestamps: Tensor) -> Tensor:
        chunk = self.cfg.eval_chunk_size
        parts = zip(points.split(chunk), timestamps.split(chunk), strict=True)
        return torch.cat([self.geometry.forward_density(x, t) for x, t in parts], dim=1)

    def forward(
        self,
        rays_o: Float[Tensor, "B H W 3"],
        rays_d: Float[Tensor, "B H W 3"],
        timestamps: Float[Tensor, "B 1"],
        bg_color: Tensor | None = None,
        output_normal: bool | None = None,
        **batch: Any,
    ) -> dict[str, Tensor]:
        """Render B images, each at its own time in [0, 1]; ray directions are unit vectors.

        Args:
            bg_color: ``[3]``, ``[B, 3]`` or ``[B, H, W, 3]``, instead of the background module's colour.
            output_normal: whether to compute normals; by default as the config says in training, and in evaluation.

        Returns:
            Finest level: ``comp_rgb``, ``comp_rgb_fg``, ``comp_rgb_bg [B,H,W,3]``, ``opacity``, ``depth`` (Σ w t, not
            normalised), ``z_variance [B,H,W,1]``; all levels: ``comp_rgb_levels [L,B,H,W,3]``, ``opacity_levels``,
            ``depth_levels``, ``z_variance_levels [L,B,H,W,1]``. ``comp_normal [B,H,W,3]`` = (n + 1) / 2 * opacity in
            evaluation, and in training, there with ``comp_normal_levels``, when ``return_comp_normal``. Training adds,
            per sample, ``weights [L,M,1]``, ``t_dirs [M,3]``, ``ray_indices [M]``, ``points [M,3]`` and, as configured,
            ``normal``, ``normal_perturb [L,M,3]``. When only some samples get normals, these entries hold those samples
            alone, with weights scaled so that weighted sums keep their expectation. Rays without samples show the
            background.
        """
        check_rest_of_batch(batch, self)
        with_normal = (self.cfg.output_normal or not self.training) if output_normal is None else output_normal
        n_views, height, width = rays_o.shape[:3]
        origins, directions = rays_o.reshape(-1, 3).float(), rays_d.reshape(-1, 3).float()
        n_rays = len(origins)
        samples = self._sample(origins, directions)
        rays, midpoints = samples
        t_dirs = directions[rays]
        points = torch.addcmul(origins[rays], midpoints[:, None], t_dirs)
        times = timestamps.float()[rays // (height * width)]

        density, colour = self._field(points, times, t_dirs)
        weights = sample_weights(density, self.step, rays, n_rays)  # [L, M]
        output: dict[str, Tensor] = {}
        normal, normal_weights, normal_rays = None, weights, rays
        if self.training and with_normal:
            flat = self._normals_for_training(points, times, t_dirs, rays, weights)
            normal, normal_weights, normal_rays = flat["normal"], flat["weights"].squeeze(-1), flat["ray_indices"]
            output.update(flat)
        elif self.training:
            output.update(weights=weights[..., None], t_dirs=t_dirs, ray_indices=rays, points=points)
        elif with_normal:
            # A picture of normals needs those of visible samples only (sizing that query syncs; evaluation may).
            seen = torch.nonzero(weights[-1] > VISIBLE_WEIGHT).squeeze(-1)
            normal = self._normals_in_chunks(points[seen], times[seen])
            normal_weights, normal_rays = weights[:, seen], rays[seen]

        columns = [colour, torch.ones_like(midpoints).expand_as(weights)[..., None]]
        squares = torch.stack([midpoints, midpoints.square()], dim=-1)
        values = torch.cat([*columns, squares.expand(*weights.shape, 2)], dim=-1) * weights[..., None]
        summed = sum_over_rays(values, rays, n_rays).view(-1, n_views, height, width, 6)
        foreground, opacity, depth, second = summed.split([3, 1, 1, 1], dim=-1)
        backdrop = self._backdrop(rays_d, bg_color)
        image = foreground + backdrop * (1 - opacity)
        # Σ w (t - D)² with D = Σ w t and O = Σ w, multiplied out.
        z_variance = (second - depth.square() * (2 - opacity)).clamp(min=0)
        output.update(
            comp_rgb=image[-1],
            comp_rgb_fg=foreground[-1],
            comp_rgb_bg=backdrop,
            opacity=opacity[-1],
            depth=depth[-1],
            z_variance=z_variance[-1],
            comp_rgb_levels=image,
            opacity_levels=opacity,
            depth_levels=depth,
            z_variance_levels=z_variance,
        )
        if normal is not None and (self.cfg.return_comp_normal or not self.training):
            levels = slice(None) if self.training else slice(-1, None)
            facing = sum_over_rays(normal[levels] * normal_weights[levels, :, None], normal_rays, n_rays)
            facing = F.normalize(facing.view(-1, n_views, height, width, 3), dim=-1)
            shown = (facing + 1) / 2 * opacity[levels]
            output["comp_normal"] = shown[-1]
            if self.training:
                output["comp_normal_levels"] = shown
        return output

    def _sample(self, origins: Tensor, directions: Tensor) -> Samples:
        offsets = None
        if self.training and self.cfg.randomized:
            offsets = torch.rand_like(origins[:, 0]) * self.step
        return march(origins, directions, self.occupancy, self.step, offsets, self.cfg.sampler)

    def _field(self, points: Tensor, times: Tensor, t_dirs: Tensor) -> tuple[Tensor, Tensor]:
        """Densities ``[L, M]`` and colours ``[L, M, 3]``, in chunks when no graph is built."""
        chunk = max(len(points), 1) if torch.is_grad_enabled() and self.training else self.cfg.eval_chunk_size
        parts = []
        for x, t, d in zip(points.split(chunk), times.split(chunk), t_dirs.split(chunk), strict=True):
            field = self.geometry(x, t)
            colour = self.material(viewdirs=d, positions=x, light_positions=x, **field)
            parts.append((field["density"].squeeze(-1), colour.float()))
        return torch.cat([p[0] for p in parts], dim=1), torch.cat([p[1] for p in parts], dim=1)

    def _normals_in_chunks(self, points: Tensor, times: Tensor) -> Tensor:
        chunk = max(self.cfg.eval_chunk_size // 6, 1)  # a normal asks for six densities
        parts = zip(points.split(chunk), times.split(chunk), strict=True)
        return torch.cat([self.geometry.normals(x, t) for x, t in parts], dim=1)

    def _normals_for_training(
        self, points: Tensor, times: Tensor, t_dirs: Tensor, rays: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """The flat outputs of training, for all samples or for a random part of them."""
        total = len(points)
        wanted = round(total * self.cfg.normal_fraction)
        if self.cfg.max_normal_samples > 0:
            wanted = min(wanted, self.cfg.max_normal_samples)
        if wanted < total:
            chosen = torch.randint(total, (wanted,), device=points.device)
            points, times, t_dirs, rays = points[chosen], times[chosen], t_dirs[chosen], rays[chosen]
            weights = weights[:, chosen] * (total / max(wanted, 1))
        output = {
            "weights": weights[..., None],
            "t_dirs": t_dirs,
            "ray_indices": rays,
            "points": points,
        }
        queries = [points]
        if self.cfg.return_normal_perturb:
            queries.append(points + torch.randn_like(points) * self.cfg.normal_perturb_std)
        normals = self.geometry.normals(torch.cat(queries), times.repeat(len(queries), 1))
        for name, part in zip(("normal", "normal_perturb"), normals.chunk(len(queries), dim=1), strict=False):
            output[name] = part
        return output

    def _backdrop(self, rays_d: Tensor, bg_color: Tensor | None) -> Tensor:
        """Background ``[B, H, W, 3]``."""
        if bg_color is None:
            return self.background(dirs=rays_d)
        if bg_color.ndim == 2:
            bg_color = bg_color[:, None, None, :]
        return bg_color.expand(*rays_d.shape[:3], -1)
