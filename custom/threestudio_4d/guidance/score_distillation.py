"""Score distillation: the mathematics that every diffusion guidance shares, as pure functions.

Notation. ``z`` is a clean latent ``[B, ...]``, ``a`` (alpha bar) the cumulative product of ``1 - beta`` at the
timestep of each sample, ``eps`` the noise, and

    z_t = sqrt(a) z + sqrt(1 - a) eps                                       (forward process)
    v   = sqrt(a) eps - sqrt(1 - a) z                                       (velocity, Salimans & Ho 2022)
    g   = w(t) (eps_hat - eps)                                              (SDS, Poole et al. 2022, eq. 3)

The three ways to write what a network predicts are linear in each other at fixed ``z_t``, so classifier-free guidance
may be applied to any of them with the same result. In particular

    eps_hat - eps = sqrt(a) (v_hat - v) = sqrt(a) / sqrt(1 - a) (z - z_hat),

and the last form is the one to use for a network that predicts ``v`` or ``z``: it never divides by ``sqrt(a)``,
which is zero at the last step of a schedule with zero terminal SNR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Weighting = Literal["sds", "uniform", "fantasia3d", "x0"]
GradientForm = Literal["eps", "x0"]

WEIGHTINGS: tuple[str, ...] = ("sds", "uniform", "fantasia3d", "x0")


class NonFiniteScoreError(UserError, ArithmeticError):
    """The distilled gradient holds NaN or infinity. The message names the guidance, the samples and their timesteps."""


@dataclass
class ScoreDistillation:
    """What one call of a guidance distils, image by image.

    With several levels (a cascade) the images are ordered level by level: image ``l * B + b`` is view ``b`` of
    level ``l``.

    Attributes:
        loss: ``[L*B]``, the reparametrised loss of each image, *not* divided by the number of images. The published
            loss of a level is the mean over its views; :meth:`level_losses` gives that.
        gradient: ``[L*B, ...]`` detached ``w(t) (eps_hat - eps)`` after clipping, also not divided.
        grad_norm: 0-dim, the Euclidean norm of ``gradient / B`` (what ``z`` gets when the levels' losses are added).
        timesteps: ``[L*B]`` long.
        min_step, max_step: the window of the first level, inclusive.
        levels: L.
        evaluation: pictures to look at, if asked for.
    """

    loss: Tensor
    gradient: Tensor
    grad_norm: Tensor
    timesteps: Tensor
    min_step: int
    max_step: int
    levels: int = 1
    evaluation: dict[str, Any] | None = None

    def level_losses(self) -> Tensor:
        """``[L]``: for each level the sum over its images divided by the number of views; d(loss)/dz = gradient / B."""
        return self.loss.view(self.levels, -1).mean(dim=1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``[B]`` to ``[B, 1, ...]`` so that it multiplies ``like [B, ...]``; float32 or wider."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    return values.to(like.device, dtype).view(-1, *([1] * (like.ndim - 1)))


def timestep_window(min_percent: float, max_percent: float, num_train_timesteps: int = 1000) -> tuple[int, int]:
    """The inclusive window ``(min_step, max_step)`` of timesteps from fractions of the schedule.

    threestudio and Consistent4D write ``int(T * percent)``: a floor, taken of a float that scheduling has already
    rounded. With Consistent4D's schedule 0.8 -> 0.2 that gives 199 instead of 200 from step 5000 on, since 1000 * 0.2
    arrives as 199.99...; every other published window is exact: [800, 980] at step 0, [740, 907] at 500, [650, 797]
    at 1250, [500, 615] at 2500, [350, 432] at 3750. Here the floor tolerates an error of 1e-6 steps, so that the
    window is [200, 250] from 5000 on and as published before.

    The result is clamped to ``[0, T - 1]``: a fraction of 1 means the last timestep that exists.

    Raises:
        UserError: if a fraction is outside [0, 1] or the window is empty.

    >>> timestep_window(0.8, 0.98)
    (800, 980)
    """
    for name, value in (("min_step_percent", min_percent), ("max_step_percent", max_percent)):
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{name} is a fraction of the noise schedule and must be in [0, 1], got {value:g}")
    total = num_train_timesteps
    first, last = (min(math.floor(total * value + 1e-6), total - 1) for value in (min_percent, max_percent))
    if first > last:
        raise UserError(
            f"the window of timesteps is empty: min_step_percent={min_percent:g} is above "
            f"max_step_percent={max_percent:g}"
        )
    return first, last


def sample_timesteps(
    count: int, window: tuple[int, int], device: torch.device | str, generator: torch.Generator | None = None
) -> Tensor:
    """``[count]`` long, each drawn uniformly and independently from the inclusive window."""
    return torch.randint(window[0], window[1] + 1, (count,), device=device, generator=generator)


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """The forward process ``sqrt(a) z + sqrt(1 - a) eps``; latents, noise ``[B, ...]``, alpha_bar ``[B]``."""
    a = per_sample(alpha_bar, latents)
    return a.sqrt() * latents + (1.0 - a).sqrt() * noise


def classifier_free_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """``uncond + s (cond - uncond)``: s = 0 is unconditional, s = 1 conditional (Ho & Salimans 2022)."""
    return unconditional + scale * (conditional - unconditional)


def eps_from_v(noisy: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """``eps = sqrt(a) v + sqrt(1 - a) z_t``."""
    a = per_sample(alpha_bar, noisy)
    return a.sqrt() * v + (1.0 - a).sqrt() * noisy


def x0_from_v(noisy: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """``z = sqrt(a) z_t - sqrt(1 - a) v``."""
    a = per_sample(alpha_bar, noisy)
    return a.sqrt() * noisy - (1.0 - a).sqrt() * v


def v_from_eps_x0(eps: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """``v = sqrt(a) eps - sqrt(1 - a) z``."""
    a = per_sample(alpha_bar, eps)
    return a.sqrt() * eps - (1.0 - a).sqrt() * x0


def x0_from_eps(noisy: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """``z = (z_t - sqrt(1 - a) eps) / sqrt(a)``; singular where ``a`` is 0."""
    a = per_sample(alpha_bar, noisy)
    return (noisy - (1.0 - a).sqrt() * eps) / a.sqrt()


def eps_from_x0(noisy: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """``eps = (z_t - sqrt(a) z) / sqrt(1 - a)``; singular where ``a`` is 1."""
    a = per_sample(alpha_bar, noisy)
    return (noisy - a.sqrt() * x0) / (1.0 - a).sqrt()


def gradient_form(prediction_type: PredictionType) -> GradientForm:
    """The stable way to write the gradient for a network of this kind: from ``eps_hat``, or from ``x0_hat``."""
    return "eps" if prediction_type == "epsilon" else "x0"


def gradient_coefficients(alphas_cumprod: Tensor, weighting: Weighting, form: GradientForm) -> Tensor:
    """The factor ``c(t)`` of the gradient for every timestep, ``[T]`` float32.

    ``form="eps"``: ``g = c (eps_hat - eps)`` with c = w(t). ``form="x0"``: ``g = c (z - x0_hat)`` with
    c = w(t) sqrt(a) / sqrt(1 - a), the same gradient written without a division by sqrt(a).

    ============  ====================  ==========================  =================================
    weighting     w(t)                  c for ``x0``                from
    ============  ====================  ==========================  =================================
    sds           1 - a                 sqrt(a (1 - a))             DreamFusion, Zero123, Consistent4D
    uniform       1                     sqrt(a / (1 - a))           threestudio
    fantasia3d    sqrt(a) (1 - a)       a sqrt(1 - a)               Fantasia3D
    x0            sqrt((1 - a) / a)     1                           pull towards the predicted image
    ============  ====================  ==========================  =================================

    Raises:
        UserError: for an unknown weighting, or one that is infinite somewhere on this schedule in this form.
    """
    a = alphas_cumprod.detach().double()
    if weighting == "sds":
        table = 1.0 - a if form == "eps" else (a * (1.0 - a)).sqrt()
    elif weighting == "uniform":
        table = torch.ones_like(a) if form == "eps" else (a / (1.0 - a)).sqrt()
    elif weighting == "fantasia3d":
        table = a.sqrt() * (1.0 - a) if form == "eps" else a * (1.0 - a).sqrt()
    elif weighting == "x0":
        table = ((1.0 - a) / a).sqrt() if form == "eps" else torch.ones_like(a)
    else:
        raise UserError(f"unknown weighting_strategy {weighting!r}; choose one of {', '.join(WEIGHTINGS)}")
    infinite = (~torch.isfinite(table)).nonzero()
    if len(infinite):
        raise UserError(
            f"weighting_strategy={weighting!r} is infinite at timestep {int(infinite[0])} of this noise schedule; "
            "use 'sds'"
        )
    return table.float()


def score_gradient(
    coefficient: Tensor,
    form: GradientForm,
    *,
    latents: Tensor,
    noise: Tensor,
    eps: Tensor,
    x0: Tensor,
) -> Tensor:
    """``w(t) (eps_hat - eps)``, detached float32 ``[B, ...]``, from the prediction that ``form`` names.

    Args:
        coefficient: ``[B]``, rows of :func:`gradient_coefficients` at the samples' timesteps.
        form: which of the two predictions to use.
        latents, noise: ``[B, ...]`` the clean latents and the noise that was added.
        eps, x0: ``[B, ...]`` predictions after guidance; only one of them is read.
    """
    c = per_sample(coefficient, latents)
    residual = eps.float() - noise.float() if form == "eps" else latents.detach().float() - x0.float()
    return (c * residual).detach()


def clip_gradient(gradient: Tensor, limit: float | None) -> Tensor:
    """Clamp every entry to ``[-limit, limit]`` (threestudio's ``grad_clip``); ``None`` leaves it as it is."""
    if limit is None:
        return gradient
    if not limit > 0.0:
        raise UserError(f"grad_clip must be positive or null, got {limit:g}")
    return gradient.clamp(-limit, limit)


def check_finite(gradient: Tensor, timesteps: Tensor, guidance: str) -> None:
    """Raise :class:`NonFiniteScoreError` if ``gradient [B, ...]`` is not finite; names the samples and timesteps.

    The originals replace NaN by zero, which hides a broken network or an overflow in half precision for a whole run.
    This reads one number back from the device, the only synchronisation of a distillation step: an error now, with
    its cause, is worth more than one a step later in the optimiser's state.
    """
    bad = ~torch.isfinite(gradient).flatten(1).all(dim=1)
    if bool(bad.any()):
        rows = bad.nonzero().flatten().tolist()
        steps = timesteps[bad].tolist()
        raise NonFiniteScoreError(
            f"{guidance}: the score is not finite for image(s) {rows} at timestep(s) {steps}. Either the rendered "
            "images already were not, or half precision overflowed: try half_dtype=bf16 or half_precision_weights=false"
        )


def reparametrised_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """``1/2 |z - sg(z - g)|^2`` of each sample, ``[B]``: its derivative with respect to ``z`` is exactly ``g``.

    The mean over the B samples has the gradient ``g / B``, as published. The value is ``|g|^2 / 2``, a useful size.
    """
    target = (latents.float() - gradient).detach()
    return 0.5 * (latents.float() - target).square().flatten(1).sum(dim=1)
