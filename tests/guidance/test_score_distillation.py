"""The shared score-distillation mathematics, against autograd and the published numbers."""

import pytest
import torch

from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd


def cosine_zero_terminal(steps: int = 1000) -> torch.Tensor:
    """A cosine schedule whose last entry is exactly 0, as the built-in prior has."""
    phase = torch.linspace(0.0, 1.0, steps, dtype=torch.float64) * 0.999 + 0.001
    alpha = torch.cos(phase * torch.pi / 2).square()
    alpha[-1] = 0.0
    return alpha.float()


def scheduled(start: float, end: float, step: int) -> float:
    return start + (end - start) * max(min(1.0, step / 5000), 0.0)


@pytest.mark.parametrize(
    "step, window",
    [
        (0, (800, 980)),
        (500, (740, 907)),
        (1250, (650, 797)),
        (2500, (500, 615)),
        (3750, (350, 432)),
        (4999, (200, 250)),
    ],
)
def test_published_windows(step, window):
    assert sd.timestep_window(scheduled(0.8, 0.2, step), scheduled(0.98, 0.25, step)) == window


def test_the_last_window_is_not_truncated():
    value = scheduled(0.8, 0.2, 5000)
    assert int(1000 * value) == 199, "the published window starts at 199 because of this float"
    assert sd.timestep_window(value, scheduled(0.98, 0.25, 5000)) == (200, 250)


def test_window_limits_and_errors():
    assert sd.timestep_window(0.0, 1.0) == (0, 999)
    assert sd.timestep_window(0.5, 0.5, 100) == (50, 50)
    with pytest.raises(UserError, match=r"max_step_percent .* must be in \[0, 1\], got 1.2"):
        sd.timestep_window(0.0, 1.2)
    with pytest.raises(UserError, match="the window of timesteps is empty: min_step_percent=0.5"):
        sd.timestep_window(0.5, 0.2)


def test_timesteps_fill_the_inclusive_window():
    steps = sd.sample_timesteps(4000, (7, 10), "cpu", torch.Generator().manual_seed(0))
    assert steps.unique().tolist() == [7, 8, 9, 10]


def test_predictions_convert_into_each_other():
    torch.manual_seed(0)
    x0, eps = torch.randn(2, 4, 3, 5, 5).unbind()
    a = torch.tensor([0.9, 0.5, 0.1, 0.02])
    noisy, v = sd.add_noise(x0, eps, a), sd.v_from_eps_x0(eps, x0, a)
    close = dict(atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sd.eps_from_v(noisy, v, a), eps, **close)
    torch.testing.assert_close(sd.x0_from_v(noisy, v, a), x0, **close)
    torch.testing.assert_close(sd.x0_from_eps(noisy, eps, a), x0, **close)
    torch.testing.assert_close(sd.eps_from_x0(noisy, x0, a), eps, **close)


def test_guidance_is_the_same_for_every_prediction():
    torch.manual_seed(1)
    noisy, eps_u, eps_c = torch.randn(3, 2, 4, 6, 6).unbind()
    a = torch.tensor([0.3, 0.7])
    direct = sd.x0_from_eps(noisy, sd.classifier_free_guidance(eps_u, eps_c, 5.0), a)
    through = sd.classifier_free_guidance(sd.x0_from_eps(noisy, eps_u, a), sd.x0_from_eps(noisy, eps_c, a), 5.0)
    torch.testing.assert_close(direct, through, atol=1e-4, rtol=1e-4)
    assert torch.equal(sd.classifier_free_guidance(eps_u, eps_c, 0.0), eps_u)
    torch.testing.assert_close(sd.classifier_free_guidance(eps_u, eps_c, 1.0), eps_c)


@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d", "x0"])
def test_both_forms_of_the_gradient_agree(weighting):
    torch.manual_seed(2)
    z, noise, eps_hat = torch.randn(3, 5, 4, 6, 6, dtype=torch.float64).unbind()
    alphas = torch.linspace(0.99, 0.01, 100, dtype=torch.float64)
    t = torch.tensor([0, 20, 50, 80, 99])
    x0_hat = sd.x0_from_eps(sd.add_noise(z, noise, alphas[t]), eps_hat, alphas[t])
    grads = [
        sd.score_gradient(
            sd.gradient_coefficients(alphas, weighting, form)[t], form, latents=z, noise=noise, eps=eps_hat, x0=x0_hat
        )
        for form in ("eps", "x0")
    ]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-4)


def test_zero_terminal_snr_stays_finite_in_the_stable_form():
    alphas = cosine_zero_terminal()
    for weighting in sd.WEIGHTINGS:
        assert torch.isfinite(sd.gradient_coefficients(alphas, weighting, "x0")).all()
    assert sd.gradient_coefficients(alphas, "sds", "x0")[-1] == 0
    with pytest.raises(UserError, match="infinite at timestep 999"):
        sd.gradient_coefficients(alphas, "x0", "eps")
    with pytest.raises(UserError, match="unknown weighting_strategy 'sdss'; choose one of sds, uniform"):
        sd.gradient_coefficients(alphas, "sdss", "eps")


def test_loss_gradient_is_the_score_over_b():
    torch.manual_seed(3)
    z = torch.randn(3, 4, 8, 8, requires_grad=True)
    gradient = torch.randn_like(z).detach()
    loss = sd.reparametrised_loss(z, gradient)
    assert loss.shape == (3,)
    torch.testing.assert_close(loss, 0.5 * gradient.square().flatten(1).sum(1), rtol=1e-4, atol=1e-4)
    loss.mean().backward()
    torch.testing.assert_close(z.grad, gradient / 3, atol=1e-6, rtol=1e-4)


def test_a_perfect_prediction_gives_nothing():
    z, noise = torch.randn(2, 2, 4, 8, 8).unbind()
    z = z.requires_grad_()
    gradient = sd.score_gradient(torch.ones(2), "eps", latents=z, noise=noise, eps=noise, x0=z)
    loss = sd.reparametrised_loss(z, gradient).mean()
    loss.backward()
    assert loss == 0 and z.grad.abs().max() == 0


@pytest.mark.parametrize("form", ["eps", "x0"])
def test_sds_through_a_linear_encoder_and_network(form):
    """Images -> linear encoder -> linear denoiser: the gradient must be J^T w(t) (eps_hat - eps) / B."""
    torch.manual_seed(4)
    batch, pixels, dim = 4, 12, 5
    images = torch.rand(batch, pixels, dtype=torch.float64, requires_grad=True)
    encoder, unet = torch.randn(dim, pixels, dtype=torch.float64), torch.randn(dim, dim, dtype=torch.float64)
    alphas = torch.linspace(0.999, 0.01, 50, dtype=torch.float64)
    t, noise = torch.tensor([3, 10, 30, 49]), torch.randn(batch, dim, dtype=torch.float64)

    z = images @ encoder.T
    noisy = sd.add_noise(z, noise, alphas[t])
    eps_hat = noisy.detach() @ unet.T
    x0_hat = sd.x0_from_eps(noisy.detach(), eps_hat, alphas[t])
    coefficient = sd.gradient_coefficients(alphas, "sds", form)[t]
    gradient = sd.score_gradient(coefficient, form, latents=z, noise=noise, eps=eps_hat, x0=x0_hat)
    sd.reparametrised_loss(z, gradient).mean().backward()

    a = alphas[t][:, None]
    by_hand = (1 - a) * ((a.sqrt() * (images @ encoder.T) + (1 - a).sqrt() * noise) @ unet.T - noise) @ encoder / batch
    torch.testing.assert_close(images.grad, by_hand.detach(), atol=1e-4, rtol=1e-4)


def test_levels_are_averaged_over_views():
    loss = torch.arange(6.0)
    result = sd.ScoreDistillation(loss, torch.zeros(6, 1), torch.zeros(()), torch.zeros(6), 0, 1, levels=2)
    assert result.level_losses().tolist() == [1.0, 4.0]


def test_clipping():
    gradient = torch.tensor([[-3.0, 0.5, 2.0]])
    assert sd.clip_gradient(gradient, 1.0).tolist() == [[-1.0, 0.5, 1.0]]
    assert sd.clip_gradient(gradient, None) is gradient
    with pytest.raises(UserError, match="grad_clip must be positive or null, got -1"):
        sd.clip_gradient(gradient, -1.0)


def test_a_non_finite_score_is_named():
    gradient = torch.zeros(3, 4, 2, 2)
    sd.check_finite(gradient, torch.tensor([1, 2, 3]), "zero123-guidance-t")
    gradient[1, 0, 0, 0] = float("nan")
    with pytest.raises(sd.NonFiniteScoreError, match=r"zero123-guidance-t: .* image\(s\) \[1\] at timestep\(s\) \[2\]"):
        sd.check_finite(gradient, torch.tensor([1, 2, 3]), "zero123-guidance-t")
