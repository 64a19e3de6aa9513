"""Where to sample rays: in proportion to what a coarse look has seen (NeRF, section 5.2)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["ImportanceEstimator", "sample_edges"]

#: (starts, ends) of intervals [R, S] -> densities [R, S]
DensityOfIntervals = Callable[[Tensor, Tensor], Tensor]


def sample_edges(edges: Tensor, cdf: Tensor, count: int, stratified: bool = False) -> Tensor:
    """Edges [R, count + 1] of intervals around samples drawn from a distribution along each ray.

    Args:
        edges: positions [R, S] in increasing order.
        cdf: the distribution at the edges, [R, S], not decreasing.
        count: samples: at equal steps of the distribution, with ``stratified`` at random places in the steps.
    """
    place = torch.rand(len(edges), count, device=edges.device) if stratified else torch.tensor(0.5, device=edges.device)
    share = (torch.arange(count, device=edges.device) + place) / count
    wanted = cdf[:, :1] + share * (cdf[:, -1:] - cdf[:, :1])
    right = torch.searchsorted(cdf.contiguous(), wanted.contiguous(), right=True).clamp(1, cdf.shape[1] - 1)
    low, high = cdf.gather(1, right - 1), cdf.gather(1, right)
    near, far = edges.gather(1, right - 1), edges.gather(1, right)
    samples = near + (far - near) * ((wanted - low) / (high - low).clamp(min=1e-10)).clamp(0, 1)
    if count == 1:
        return edges[:, [0, -1]]
    inner = (samples[:, 1:] + samples[:, :-1]) / 2
    first = (2 * samples[:, :1] - inner[:, :1]).maximum(edges[:, :1])
    last = (2 * samples[:, -1:] - inner[:, -1:]).minimum(edges[:, -1:])
    return torch.cat([first, inner, last], dim=1)


class ImportanceEstimator(nn.Module):
    """Samples rays coarsely, asks for densities, and samples again where light is absorbed. It has no parameters."""

    @torch.no_grad()
    def sampling(
        self,
        prop_sigma_fns: Sequence[DensityOfIntervals],
        prop_samples: Sequence[int],
        num_samples: int,
        n_rays: int,
        near_plane: float,
        far_plane: float,
        sampling_type: Literal["uniform", "lindisp"] = "uniform",
        stratified: bool = False,
        requires_grad: bool = False,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Starts and ends [R, num_samples + prop_samples[-1] + 1] of the intervals of all rays, coarse and fine.

        Args:
            prop_sigma_fns, prop_samples: density functions and their numbers of samples, from coarse to fine.
            sampling_type: samples spread evenly over the distance, or over its inverse.
            requires_grad: build the graph of the density functions.
            device: of the rays; the CPU by default.
        """
        if len(prop_sigma_fns) != len(prop_samples):
            raise ValueError(f"{len(prop_sigma_fns)} density functions for {len(prop_samples)} numbers of samples")
        edges = torch.tensor([[0.0, 1.0]], device=device).repeat(n_rays, 1)
        cdf = edges
        for density, count in zip(prop_sigma_fns, prop_samples, strict=True):
            edges = sample_edges(edges, cdf, count, stratified)
            t = _distances(edges, near_plane, far_plane, sampling_type)
            with torch.set_grad_enabled(requires_grad):
                depth = density(t[:, :-1], t[:, 1:]) * (t[:, 1:] - t[:, :-1])
                passed = torch.exp(depth - depth.cumsum(1))  # light that reaches each interval
                cdf = 1 - torch.cat([passed, torch.zeros_like(passed[:, :1])], dim=1)
        fine = _distances(sample_edges(edges, cdf, num_samples, stratified), near_plane, far_plane, sampling_type)
        both = torch.cat([t, fine], dim=1).sort(dim=1).values
        return both[:, :-1], both[:, 1:]


def _distances(share: Tensor, near: float, far: float, kind: str) -> Tensor:
    if kind == "uniform":
        return near + share * (far - near)
    if kind == "lindisp":
        return 1 / ((1 - share) / near + share / far)
    raise ValueError(f"sampling_type is 'uniform' or 'lindisp', got {kind!r}")
