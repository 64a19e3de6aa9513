"""Time one training step of geometry and renderer at fixed shapes, for every backend, and check the pictures.

A step is render + losses (rgb, mask, orientation, 3-D normal smoothness, on random targets) + backward + Adam, with
normals and perturbed normals, two levels of 16 channels, 256 samples on the box diagonal, and the occupancy fixed to a
ball of radius 0.45. Medians after warm-up; on CUDA by events, with the peak of allocated memory.

    python benchmarks/renderer_step.py --output benchmarks/results/renderer_step.json
    python benchmarks/renderer_step.py --device cpu --quick
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import environment, measure, write_report
from torch import nn

from threestudio_4d.geometry.cascade_kplanes import CascadeKPlanes
from threestudio_4d.objective import losses
from threestudio_4d.ops.planes import interpolate_planes
from threestudio_4d.renderer.volume.dynerf_volume_renderer import DyNeRFVolumeRenderer
from threestudio_4d.renderer.volume.occupancy import OccupancyGrid

#: (views, size) of ``PUBLISHED``, which holds ms a step and peak GiB of the original on one H200
SHAPES = ((1, 64), (4, 64), (1, 128), (1, 256))
PUBLISHED = {(1, 64): (28.9, 1.0), (4, 64): (67.1, 3.7), (1, 128): (69.4, 3.7), (1, 256): (233.8, 14.5)}


class Variant(NamedTuple):
    """What computes a step."""

    planes: str
    sampler: str
    normals: str = "finite_difference_laplacian"
    normal_samples: int = 0


class Sigmoid(nn.Module):
    """Colour of the no-material."""

    def forward(self, features: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return features.sigmoid()


class White(nn.Module):
    """White background."""

    def forward(self, dirs: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(dirs)


def camera_rays(views: int, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rays ``[views, size, size, 3]`` of cameras on the equator at distance 2, fovy 49.1 degrees."""
    focal = 0.5 * size / math.tan(math.radians(49.1) / 2)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    x, y = (column + 0.5 - size / 2) / focal, -(row + 0.5 - size / 2) / focal
    origins, directions = [], []
    for view in range(views):
        azimuth = 2 * math.pi * view / views + 0.3
        position = torch.tensor([math.cos(azimuth), math.sin(azimuth), 0.0]) * 2
        right = torch.tensor([-math.sin(azimuth), math.cos(azimuth), 0.0])
        up = torch.tensor([0.0, 0.0, 1.0])
        directions.append(F.normalize(x[..., None] * right + y[..., None] * up - position / 2, dim=-1))
        origins.append(position.expand(size, size, 3))
    return torch.stack(origins).to(device), torch.stack(directions).to(device)


def fix_occupancy(grid: OccupancyGrid) -> None:
    """Occupied is the ball of radius 0.45 around the origin, so that every run has the same number of samples."""
    centre = (torch.arange(grid.resolution, device=grid.binary.device) + 0.5) / grid.resolution * 2 - 1
    axes = torch.meshgrid(centre, centre, centre, indexing="ij")
    grid.set_binary(sum(axis.square() for axis in axes) <= 0.45**2)


def make_renderer(geometry: CascadeKPlanes, variant: Variant, samples: int, device: str) -> DyNeRFVolumeRenderer:
    """A renderer over ``geometry`` whose occupancy is the ball of radius 0.45."""
    config = {
        "num_samples_per_ray": samples,
        "return_normal_perturb": True,
        "sampler": variant.sampler,
        "max_normal_samples": variant.normal_samples,
    }
    renderer = DyNeRFVolumeRenderer(config, geometry=geometry, material=Sigmoid(), background=White()).to(device)
    fix_occupancy(renderer.occupancy)
    return renderer


def train_step(renderer: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> int:
    """One optimizer step; returns the number of samples."""
    out = renderer(batch["rays_o"], batch["rays_d"], batch["timestamps"])
    loss = (
        500 * losses.reconstruction_loss(out["comp_rgb_levels"], batch["rgb"]).sum()
        + 50 * losses.reconstruction_loss(out["opacity_levels"], batch["mask"]).sum()
        + 10 * losses.orientation_loss(out["weights"], out["normal"], out["t_dirs"], out["opacity_levels"])
        + 2 * losses.normal_consistency_3d(out["normal"], out["normal_perturb"])
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return len(out["points"])


def time_variant(variant: Variant, views: int, size: int, args: argparse.Namespace) -> dict:
    """Time one variant at one shape, and compare its picture with that of plain PyTorch."""
    torch.manual_seed(0)
    geometry = CascadeKPlanes({"plane_backend": variant.planes, "normal_type": variant.normals}).to(args.device)
    renderer = make_renderer(geometry, variant, args.samples, args.device).train()
    rays_o, rays_d = camera_rays(views, size, args.device)
    batch = {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "timestamps": torch.arange(views, device=args.device)[:, None] / max(views, 4),
        "rgb": torch.rand(views, size, size, 3, device=args.device),
        "mask": torch.rand(views, size, size, 1, device=args.device),
    }
    optimizer = torch.optim.Adam(geometry.parameters(), lr=0.01, betas=(0.9, 0.99))
    samples = train_step(renderer, optimizer, batch)
    row = {"views": views, "size": size, **variant._asdict(), "normal_points": samples}
    row |= measure(lambda: train_step(renderer, optimizer, batch), args.device, args.repeats, args.warmup)
    # After the steps above the planes are far from their smooth start, so that a wrong lookup would show.
    with torch.no_grad():
        renderer.eval()
        image = renderer(rays_o, rays_d, batch["timestamps"])["comp_rgb_levels"]
        geometry.cfg.plane_backend = "torch"
        plain = make_renderer(geometry, Variant("torch", "torch"), args.samples, args.device).eval()
        reference = plain(rays_o, rays_d, batch["timestamps"])
    row["max_abs_diff"] = float((image - reference["comp_rgb_levels"]).abs().max())
    if (views, size) in PUBLISHED and args.device == "cuda":
        row["speedup_over_published"] = PUBLISHED[views, size][0] / row["ms"]
    return row


def time_lookup(backend: str, args: argparse.Namespace) -> dict:
    """The lookup of both levels alone: forward, and forward with backward to the planes."""
    count = 1 << (13 if args.quick else 20)
    geometry = CascadeKPlanes({}).to(args.device)
    coords = torch.rand(count, 4, device=args.device) * 2 - 1

    def forward() -> torch.Tensor:
        return sum(interpolate_planes(list(planes), coords, backend=backend).sum() for planes in geometry.grids)

    def both() -> None:
        geometry.zero_grad(set_to_none=True)
        forward().backward()

    with torch.no_grad():
        alone = measure(forward, args.device, args.repeats, args.warmup)["ms"]
    return {
        "lookup": backend,
        "points": count,
        "forward_ms": alone,
        "forward_backward_ms": measure(both, args.device, args.repeats, args.warmup)["ms"],
    }


def variants(device: str) -> list[Variant]:
    """Every combination worth timing here."""
    if device == "cpu":
        found = [Variant("torch", "torch")]
        if importlib.util.find_spec("numba"):
            found += [Variant("numba", "numba"), Variant("numba", "numba", "analytic")]
            found += [Variant("numba", "numba", "analytic", 8192)]
        return found
    found = [Variant("torch", "torch")]
    if importlib.util.find_spec("triton"):
        found += [Variant("triton", "torch"), Variant("triton", "torch", "analytic")]
        if importlib.util.find_spec("nerfacc"):
            found.insert(2, Variant("triton", "nerfacc"))
    return found


def main() -> None:
    """Run all shapes and variants, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="one tiny shape, few repeats: does everything run?")
    parser.add_argument("--samples", type=int, default=256, help="samples on the diagonal of the box")
    parser.add_argument("--views", type=int, help="time only this shape (with --size)")
    parser.add_argument("--size", type=int)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    shapes = ((args.views or 1, args.size),) if args.size else SHAPES
    if args.quick:
        shapes, args.samples, args.repeats, args.warmup = ((1, 16),), 64, 2, 1
    elif args.device == "cpu":
        args.repeats, args.warmup = min(args.repeats, 5), 1

    report = {**environment(args.device), "samples_on_diagonal": args.samples, "lookup": [], "steps": []}
    for backend in dict.fromkeys(variant.planes for variant in variants(args.device)):
        row = time_lookup(backend, args)
        report["lookup"].append(row)
        print(f"lookup {backend:8} {row['points']} points  forward {row['forward_ms']:8.2f} ms  ", end="")
        print(f"forward + backward {row['forward_backward_ms']:8.2f} ms", flush=True)
    for views, size in shapes:
        for variant in variants(args.device):
            try:
                row = time_variant(variant, views, size, args)
            except torch.cuda.OutOfMemoryError:
                row = {"views": views, "size": size, **variant._asdict(), "error": "out of memory"}
            report["steps"].append(row)
            name = f"{views} x {size}^2  {variant.planes:6} {variant.sampler:8} {variant.normals:28}"
            if "error" in row:
                print(name, row["error"], flush=True)
                continue
            memory = f"{row['peak_gib']:6.2f} GiB  " if "peak_gib" in row else ""
            print(f"{name} {row['normal_points']:7} points  {row['ms']:8.2f} ms  {memory}", end="")
            print(f"image differs by {row['max_abs_diff']:.1e}", flush=True)
            if args.device == "cuda":
                torch.cuda.empty_cache()
    if args.output:
        write_report(report, args.output)


if __name__ == "__main__":
    main()
