"""The parametrisation of Karras et al. ("Elucidating the Design Space", NeurIPS 2022), for Stable Video Diffusion.

Notation. ``z`` is a clean latent of unit variance, ``eps`` the noise, ``x = z + sigma eps`` the noisy latent, F the raw
output of the network, and

    z_hat = c_skip x + c_out F(c_in x; c_noise)
    c_skip = 1 / (sigma^2 + 1)    c_out = -sigma / sqrt(sigma^2 + 1)    c_in = 1 / sqrt(sigma^2 + 1)
    c_noise = log(sigma) / 4

This is velocity prediction in other coordinates: with alpha_bar = 1 / (sigma^2 + 1), what the network sees, c_in x, is
the noisy latent sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps of ``score_distillation``, and F is its ``v``. Schedules of
``sigma`` and of ``alpha_bar`` may therefore be exchanged, and all weightings w(t) of score distillation carry over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import UserError
from ...guidance.score_distillation import per_sample


def alpha_bar(sigma: Tensor) -> Tensor:
    """``1 / (sigma^2 + 1)`` of any shape: the cumulative product of the same noise level in a discrete schedule."""
    return 1.0 / (sigma.square() + 1.0)


def sigma_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """``sqrt((1 - a) / a)``: inverse of :func:`alpha_bar`; infinite where a is 0."""
    return ((1.0 - alpha_bar) / alpha_bar).sqrt()


def scalings(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``c_skip, c_out, c_in, c_noise`` of noise levels of any shape.

    >>> [round(c.item(), 4) for c in scalings(torch.tensor(1.0))]
    [0.5, -0.7071, 0.7071, 0.0]
    """
    a = alpha_bar(sigma)
    return a, -sigma * a.sqrt(), a.sqrt(), 0.25 * sigma.log()


def clean_from_output(output: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """The clean latent ``c_skip x + c_out F``; output, noisy ``[B, ...]``, sigma ``[B]``."""
    s = per_sample(sigma, noisy)
    c_skip, c_out, _, _ = scalings(s)
    return c_skip * noisy + c_out * output


def output_target(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The output for which :func:`clean_from_output` gives the clean latent: ``(eps - sigma z) / sqrt(sigma^2 + 1)``.

    The mean square error to it is the denoising error weighted by ``(sigma^2 + 1) / sigma^2``, as in the training of
    SVD. clean, noise ``[B, ...]``, sigma ``[B]``.
    """
    s = per_sample(sigma, clean)
    return (noise - s * clean) * alpha_bar(s).sqrt()


def log_spaced_sigmas(sigma_min: float, sigma_max: float, count: int) -> Tensor:
    """``[count]`` float64 noise levels, rising, evenly spaced in their logarithm, both ends included.

    Raises:
        UserError: unless 0 < sigma_min < sigma_max.
    """
    if not 0.0 < sigma_min < sigma_max:
        raise UserError(f"noise levels need 0 < sigma_min < sigma_max, got {sigma_min:g} and {sigma_max:g}")
    return torch.linspace(math.log(sigma_min), math.log(sigma_max), count, dtype=torch.float64).exp()


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """``[steps + 1]`` float64 noise levels of a sampler, falling from sigma_max to sigma_min, then 0 (eq. 5).

    >>> [round(s.item(), 2) for s in karras_sigmas(4, 0.002, 700.0)]
    [700.0, 70.54, 2.27, 0.0, 0.0]
    """
    if steps < 1:
        raise UserError(f"a sampler needs 1 step or more, got {steps}")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def euler_step(noisy: Tensor, clean: Tensor, sigma: float | Tensor, next_sigma: float | Tensor) -> Tensor:
    """One step of Euler's method along dx/dsigma = (x - z_hat) / sigma; sigma and next_sigma for the whole batch."""
    return noisy + (noisy - clean) / sigma * (next_sigma - sigma)


def draw_training_sigmas(
    count: int,
    sigma_min: float,
    sigma_max: float,
    mean: float,
    std: float,
    terminal_share: float,
    device: torch.device | str,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``[count]`` noise levels to train at: log sigma normal with ``mean`` and ``std``, stratified, kept in the range.

    A share ``terminal_share`` of them is ``sigma_max``, where the one-step prediction is the posterior mean.
    """
    jitter = torch.rand(count, device=device, generator=generator)
    u = (torch.arange(count, device=device) + jitter) / count
    normal = torch.erfinv((2 * u - 1).clamp(-0.999999, 0.999999)) * math.sqrt(2.0)
    sigma = (mean + std * normal).exp().clamp(sigma_min, sigma_max)
    terminal = torch.rand(count, device=device, generator=generator) < terminal_share
    return torch.where(terminal, torch.full_like(sigma, sigma_max), sigma)


def frame_guidance_scales(frames: int, first: float, last: float, device: torch.device | str) -> Tensor:
    """``[frames]`` weights of classifier-free guidance, rising linearly over the frames, as SVD is sampled with."""
    return torch.linspace(first, last, frames, device=device)
