"""``svd-guidance`` on a toy prior: the loss by hand, gradients through the encoder, memory options, mistakes."""

import pytest
import torch
from tiny_svd import FRAMES, SIZE, tiny_svd

import threestudio
from threestudio_4d.diffusion.svd import edm
from threestudio_4d.diffusion.svd.model import SVDModel
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd
from threestudio_4d.guidance.svd_guidance import NOISE_LEVELS, SVDGuidance


def make(**cfg) -> SVDGuidance:
    guidance = SVDGuidance({"half_precision_weights": False, **cfg}, tiny_svd())
    guidance.prepare(torch.rand(2, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1)))
    return guidance


def frames(count: int = 2 * FRAMES, size: int = SIZE) -> torch.Tensor:
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(2))


def fixed(clips: int = 2) -> dict[str, torch.Tensor]:
    noise = torch.randn(clips, FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return {"noise": noise, "timesteps": torch.linspace(400, 800, clips).long(), "num_frames": FRAMES}


def test_registered():
    assert threestudio.find("svd-guidance") is SVDGuidance


@pytest.mark.parametrize("size", [SIZE, 24])
def test_end_to_end(size):
    guidance, rgb = make(), frames(FRAMES, size).requires_grad_()
    out = guidance(rgb, elevation=None, timestamps=torch.zeros(FRAMES, 1))
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"} and out["loss_sds"].ndim == 0
    assert (out["min_step"], out["max_step"]) == (300, 900)
    out["loss_sds"].backward()
    per_frame = rgb.grad.abs().sum((1, 2, 3))
    assert torch.isfinite(rgb.grad).all() and (per_frame > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in guidance.model.parameters())


def test_noise_levels_are_even_in_their_logarithm():
    guidance = make(min_step_percent=0.5, max_step_percent=0.5)
    assert (guidance.min_step, guidance.max_step) == (500, 500) and len(guidance.sigmas) == NOISE_LEVELS
    assert guidance.sigmas[0].item() == pytest.approx(0.002) and guidance.sigmas[-1].item() == pytest.approx(700, 1e-4)
    assert guidance.sigmas[500].item() == pytest.approx((0.002 * 700) ** 0.5, rel=0.01)


def test_the_loss_is_sds_by_hand():
    """1/2 |z - sg(z - g)|^2 over the frames of a clip, mean over clips, g = sigma / (sigma^2 + 1) (z - z_hat)."""
    guidance, rgb, given = make(min_guidance_scale=1.5, guidance_scale=4.0), frames(), fixed()
    picks = torch.tensor([1, 0])
    loss = guidance(rgb, picture_indices=picks, **given)["loss_sds"]
    model, sigma = guidance.model, guidance.sigmas[given["timesteps"]].view(-1, 1, 1, 1, 1)
    clean = model.vae.encode(rgb.movedim(-1, 1) * 2 - 1).latent_dist.mode().view(2, FRAMES, 4, 8, 8) * 0.7
    noisy = clean + sigma * given["noise"]
    picture = guidance.condition.latents[picks][:, None].expand_as(noisy)
    ids = torch.tensor([[6.0, 127.0, 0.02]]).expand(2, 3)
    scaled, t = noisy / (sigma**2 + 1).sqrt(), 0.25 * sigma.flatten().log()
    context = guidance.condition.embeddings[picks]
    cond = model.unet(torch.cat([scaled, picture], 2), t, context, ids).sample
    uncond = model.unet(torch.cat([scaled, 0 * picture], 2), t, 0 * context, ids).sample
    output = uncond + torch.linspace(1.5, 4.0, FRAMES).view(1, -1, 1, 1, 1) * (cond - uncond)
    predicted = noisy / (sigma**2 + 1) - sigma / (sigma**2 + 1).sqrt() * output
    gradient = sigma / (sigma**2 + 1) * (clean - predicted)
    torch.testing.assert_close(loss, 0.5 * gradient.square().sum() / 2, rtol=2e-3, atol=1e-4)


def test_gradient_reaches_the_frames_through_the_encoder():
    """d loss / d rgb equals the product of the encoder's Jacobian with gradient / B."""
    guidance, rgb = make(), frames().requires_grad_()
    result = guidance.distill(rgb, **fixed())
    (direct,) = torch.autograd.grad(result.level_losses().sum(), rgb)
    (expected,) = torch.autograd.grad(guidance.encode(rgb), rgb, result.gradient.flatten(0, 1) / 2)
    torch.testing.assert_close(direct, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.grad_norm, result.gradient.norm() / 2)


class _ToyPrior(SVDModel):
    """The exact denoiser of one known clip with Gaussian spread: z ~ N(mean, spread^2)."""

    mean, spread = None, 0.5

    def predict(self, noisy, sigma, *args):
        variance = self.spread**2
        s2 = sd.per_sample(sigma, noisy) ** 2
        return (variance * noisy + s2 * self.mean) / (variance + s2)


def toy(**cfg) -> SVDGuidance:
    guidance = make(**cfg)
    guidance.model.__class__ = _ToyPrior
    guidance.model.mean = torch.randn(1, FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return guidance


@pytest.mark.parametrize("weighting", ["sds", "uniform", "x0"])
def test_expected_gradient_is_that_of_the_diffused_likelihood(weighting):
    """Against autograd, on a prior whose score is known: E[g] = w sigma d/dz (-log p_sigma(z)), a diffused Gaussian."""
    guidance = toy(weighting_strategy=weighting)
    prior, step = guidance.model, 550
    sigma = guidance.sigmas[step]
    clean = torch.randn(1, FRAMES, 4, 8, 8).requires_grad_()
    noise = torch.randn(2000, 1, FRAMES, 4, 8, 8)
    noise = torch.cat([noise, -noise])  # antithetic: the linear part of the noise cancels exactly
    total = torch.zeros_like(clean)
    for part in noise.split(1000):
        rows = clean.detach().expand(len(part), *clean.shape[1:])
        result = guidance.distil_latents(
            rows,
            lambda noisy, t: guidance.predict(noisy, t, None, None),
            torch.full((len(part),), step),
            part[:, 0],
        )
        total += result.gradient.sum(0, keepdim=True)
    likelihood = -torch.distributions.Normal(prior.mean, (prior.spread**2 + sigma**2).sqrt()).log_prob(clean).sum()
    (slope,) = torch.autograd.grad(likelihood, clean)
    a = 1 / (1 + sigma**2)
    weight = {"sds": 1 - a, "uniform": 1.0, "x0": ((1 - a) / a).sqrt()}[weighting]
    torch.testing.assert_close(total / len(noise), weight * sigma * slope, rtol=1e-3, atol=1e-4)


def test_clips_move_to_what_the_prior_sees():
    guidance, target = toy(weighting_strategy="x0"), frames(FRAMES)
    with torch.no_grad():
        guidance.model.mean = guidance.encode(target)[None]
    guidance.model.spread = 0.0
    rgb = frames(2 * FRAMES)[FRAMES:].clone().requires_grad_()
    optimizer = torch.optim.Adam([rgb], lr=0.02)
    before = (guidance.encode(rgb) - guidance.model.mean[0]).square().mean()
    for _ in range(60):
        loss = guidance(rgb)["loss_sds"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (guidance.encode(rgb) - guidance.model.mean[0]).square().mean() < 0.05 * before


def test_a_perfect_prior_leaves_the_clip_alone(monkeypatch):
    guidance, rgb, given = make(), frames(), fixed()
    clean = guidance.encode(rgb).view(2, FRAMES, 4, 8, 8)
    monkeypatch.setattr(guidance.model, "predict", lambda *args: clean)
    assert guidance(rgb, **given)["loss_sds"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"encode_chunk_size": 3}, {"vae_checkpointing": True, "encode_chunk_size": 2}, {"max_batch": 1}],
)
def test_options_for_small_memory_change_nothing(options):
    grads = []
    for cfg in ({}, options):
        guidance, rgb = make(**cfg), frames().requires_grad_()
        guidance.distill(rgb, **fixed()).loss.sum().backward()
        grads.append(rgb.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-5)


def test_clips_in_one_batch_do_not_mix():
    guidance, rgb, given = make(), frames(), fixed()
    together = guidance.distill(rgb, picture_indices=torch.tensor([0, 1]), **given).gradient
    alone = guidance.distill(
        rgb[FRAMES:],
        picture_indices=torch.tensor([1]),
        noise=given["noise"][1:],
        timesteps=given["timesteps"][1:],
    ).gradient
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-5)


def test_frame_rate_and_motion_of_a_call_replace_those_of_the_config():
    rgb, given = frames(FRAMES), {key: value for key, value in fixed(1).items()}
    plain = make(fps=20.0, motion_bucket_id=10.0).distill(rgb, **given).gradient
    said = make().distill(rgb, fps=20.0, motion_bucket=torch.tensor([10.0]), **given).gradient
    other = make().distill(rgb, **given).gradient
    torch.testing.assert_close(plain, said)
    assert (plain - other).abs().max() > 1e-6


def test_schedules():
    guidance = make(
        min_step_percent=[0, 0.6, 0.2, 100], guidance_scale=[0, 4.0, 2.0, 100], min_guidance_scale=[0, 2.0, 1.0, 100]
    )
    assert (guidance.min_step, guidance.guidance_scale, guidance.min_guidance_scale) == (600, 4.0, 2.0)
    guidance.do_update_step(0, 100)
    assert (guidance.min_step, guidance.guidance_scale, guidance.min_guidance_scale) == (200, 2.0, 1.0)


def test_no_second_pass_without_guidance(monkeypatch):
    guidance, rows = make(guidance_scale=1.0), []
    denoise = guidance.model.denoise
    monkeypatch.setattr(
        guidance.model, "denoise", lambda noisy, *args: rows.append(len(noisy)) or denoise(noisy, *args)
    )
    guidance(frames(FRAMES))
    assert rows == [1]


def test_pictures_to_look_at_and_samples():
    guidance = make(decode_chunk_size=2)
    out = guidance(frames(), num_frames=FRAMES, guidance_eval=True)["eval"]
    assert out["bs"] == 2 * FRAMES == len(out["noise_levels"])
    assert out["imgs_noisy"].shape == out["imgs_1step"].shape == (2 * FRAMES, SIZE, SIZE, 3)
    clips = guidance.sample(torch.tensor([1, 0]), steps=2, generator=torch.Generator().manual_seed(0))
    assert clips.shape == (2, FRAMES, SIZE, SIZE, 3)
    assert guidance.sample(steps=1, num_frames=3).shape == (1, 3, SIZE, SIZE, 3)


def test_frames_need_not_be_square():
    guidance = make(height=16, width=24)
    assert guidance.condition.latents.shape[-2:] == (8, 12)
    rgb = frames(FRAMES, 20).requires_grad_()
    guidance(rgb)["loss_sds"].backward()
    assert torch.isfinite(rgb.grad).all()
    with pytest.raises(UserError, match="divide by 4, got 16 x 18"):
        make(width=18)


def test_autocast_of_the_trainer_is_ignored():
    guidance, rgb = make(), frames()
    expected = guidance.distill(rgb, **fixed()).gradient
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(guidance.distill(rgb, **fixed()).gradient, expected)


def test_a_network_that_overflows_is_named(monkeypatch):
    guidance = make()
    nan = torch.full((2, FRAMES, 4, 8, 8), float("nan"))
    monkeypatch.setattr(guidance.model, "predict", lambda *args: nan)
    with pytest.raises(sd.NonFiniteScoreError, match="SVDGuidance: the score is not finite"):
        guidance(frames(), num_frames=FRAMES)


def test_mistakes():
    with pytest.raises(RuntimeError, match=r"no picture yet: call prepare\(images\) first"):
        SVDGuidance({}, tiny_svd())(frames())
    with pytest.raises(IndexError, match="picture 7 asked for, but 2 pictures are prepared"):
        make()(frames(FRAMES), picture_indices=torch.tensor([7]))
    with pytest.raises(ValueError, match=r"prepare wants images \[N, H, W, 3\], got \(3, 16, 16\)"):
        make().prepare(torch.rand(3, 16, 16))
    with pytest.raises(ValueError, match="7 frames do not divide into clips of 5"):
        make()(frames(7), num_frames=5)
    with pytest.raises(ValueError, match="encode_chunk_size is 0: it must be a whole number, 1 or more"):
        make(encode_chunk_size=0)
    with pytest.raises(UserError, match="0 < sigma_min < sigma_max"):
        edm.log_spaced_sigmas(2.0, 1.0, 10)


@pytest.mark.gpu
@pytest.mark.parametrize("half_dtype", ["fp16", "bf16"])
def test_half_precision_on_a_gpu(half_dtype):
    reference, half = make(), make(half_precision_weights=True, half_dtype=half_dtype)
    assert half.model.unet.dtype in (torch.float16, torch.bfloat16) and half.model.vae.dtype == torch.float32
    assert half.model.image_encoder.device.type == "cpu"
    given = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in fixed().items()}
    rgb = frames().cuda().requires_grad_()
    result = half.distill(rgb, **given)
    result.loss.sum().backward()
    assert result.loss.dtype == torch.float32 and torch.isfinite(rgb.grad).all()
    expected = reference.distill(rgb, **given).gradient
    assert (result.gradient - expected).norm() / expected.norm() < (2e-2 if half_dtype == "fp16" else 1e-1)
