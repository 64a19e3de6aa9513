"""``t2v-guidance`` end to end on randomly initialised priors: the published loss, gradients, budget, prompts."""

import pytest
import torch
from tiny_t2v import FRAMES, tiny_t2v

import threestudio
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd
from threestudio_4d.guidance.t2v_guidance import TextToVideoGuidance, amplify_motion, split_frames, take_frames
from threestudio_4d.guidance.text_prompts import TextPromptProcessor

CODECS = ["pixels", "latents"]
CLIPS = 2


def make(codec: str = "pixels", **cfg):
    """A guidance and the prompt that goes with it."""
    model = tiny_t2v(codec)
    prompt = TextPromptProcessor({"prompt": "a fox", "negative_prompt": "a red car"}, model.text)()
    cfg = {"guidance_scale": 5.0, "half_precision_weights": False, "sample_posterior": False, **cfg}
    return TextToVideoGuidance(cfg, model), prompt


def frames(clips: int = CLIPS, count: int = FRAMES, size: int = 16) -> dict[str, torch.Tensor]:
    """Renders of clips, one camera each: from behind, and from the side."""
    generator = torch.Generator().manual_seed(2)
    return {
        "rgb": torch.rand(clips * count, size, size, 3, generator=generator),
        "elevation": torch.zeros(clips * count),
        "azimuth": torch.linspace(-170, -80, clips).repeat_interleave(count),
        "camera_distances": torch.full((clips * count,), 2.0),
    }


def fixed(guidance: TextToVideoGuidance, clips: int = CLIPS) -> dict[str, torch.Tensor]:
    channels, height, width = guidance.latent_shape
    noise = torch.randn(clips, channels, FRAMES, height, width, generator=torch.Generator().manual_seed(3))
    return {
        "noise": noise.to(guidance.device),
        "timesteps": torch.linspace(200, 800, clips).long().to(guidance.device),
    }


def test_registered():
    assert threestudio.find("t2v-guidance") is TextToVideoGuidance


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [16, 24])
def test_end_to_end(codec, size):
    guidance, prompt = make(codec, min_step_percent=0.2, max_step_percent=0.8)
    batch = frames(size=size)
    batch["rgb"].requires_grad_()
    out = guidance(prompt_utils=prompt, **batch, timestamps=torch.zeros(8, 1), c2w=torch.eye(4).repeat(8, 1, 1))
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"}
    assert out["loss_sds"].ndim == 0 and (out["min_step"], out["max_step"]) == (200, 800)
    out["loss_sds"].backward()
    assert torch.isfinite(batch["rgb"].grad).all()
    assert (batch["rgb"].grad.flatten(1).abs().sum(1) > 0).all()  # every frame
    assert all(p.grad is None and not p.requires_grad for p in guidance.model.parameters())


@pytest.mark.parametrize(("form", "scale"), [("standard", 1.0), ("standard", 7.5), ("text_plus", 6.5)])
def test_the_loss_is_the_published_one(form, scale):
    """1/2 |z - sg(z - g)|^2 over clips, g = (1 - a)(e - eps), e by both ways to count, the prompt by the view."""
    guidance, prompt = make("latents", guidance_scale=scale, cfg_form=form)
    model, batch, given = guidance.model, frames(), fixed(guidance)
    a = model.alphas_cumprod[given["timesteps"]].view(-1, 1, 1, 1, 1)
    z = model.vae.encode(batch["rgb"].movedim(-1, 1) * 2 - 1).latent_dist.mode() * 0.18215
    z = z.view(CLIPS, FRAMES, 4, 8, 8).transpose(1, 2)
    noisy = a.sqrt() * z + (1 - a).sqrt() * given["noise"]
    sentences = ["a fox, back view", "a fox, side view"]
    cond, uncond = (
        model.unet(noisy, given["timesteps"], model.embed(texts)).sample for texts in (sentences, ["a red car"] * 2)
    )
    assert (cond - uncond).abs().max() > 1e-3
    eps = uncond + scale * (cond - uncond) if form == "standard" else cond + scale * (cond - uncond)
    gradient = (1 - a) * (eps - given["noise"])
    result = guidance.distill(prompt_utils=prompt, **batch, **given)
    torch.testing.assert_close(result.gradient, gradient, rtol=1e-3, atol=1e-3)
    loss = guidance(prompt_utils=prompt, **batch, **given)["loss_sds"]
    torch.testing.assert_close(loss, 0.5 * gradient.square().sum() / CLIPS, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_gradient_reaches_the_frames_through_the_encoder(codec):
    """d loss / d rgb equals the product of the encoder's Jacobian with gradient / B."""
    guidance, prompt = make(codec)
    batch = frames()
    rgb = batch["rgb"].requires_grad_()
    result = guidance.distill(prompt_utils=prompt, **batch, **fixed(guidance))
    (direct,) = torch.autograd.grad(result.level_losses().sum(), rgb)
    latents = guidance.encode(rgb.unflatten(0, (CLIPS, FRAMES)))
    (expected,) = torch.autograd.grad(latents, rgb, result.gradient / CLIPS)
    torch.testing.assert_close(direct, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("budget", [1, 3])
def test_so_many_frames_of_each_clip_get_gradient(codec, budget):
    """Exactly k frames learn, as much as they would without a budget; value, noise and network do not change."""
    guidance, prompt = make(codec)
    batch, given = frames(), fixed(guidance)
    batch["rgb"].requires_grad_()
    whole = guidance.distill(prompt_utils=prompt, **batch, **given)
    (everywhere,) = torch.autograd.grad(whole.level_losses().sum(), batch["rgb"])
    frugal, _ = make(codec, frame_grad_budget=budget)
    chosen = set()
    for _ in range(8):
        result = frugal.distill(prompt_utils=prompt, **batch, **given)
        torch.testing.assert_close(result.loss, whole.loss, rtol=1e-4, atol=1e-5)
        (some,) = torch.autograd.grad(result.level_losses().sum(), batch["rgb"])
        learns = some.view(CLIPS, FRAMES, -1).abs().sum(-1) > 0
        assert (learns.sum(1) == budget).all()
        torch.testing.assert_close(some[learns.flatten()], everywhere[learns.flatten()], rtol=1e-3, atol=1e-5)
        chosen |= {tuple(row) for row in learns.tolist()}
    assert len(chosen) > 1  # other frames in other steps


def test_choosing_frames():
    chosen, others, line = split_frames(3, 5, 2, "cpu")
    assert chosen.shape == (3, 2) and others.shape == (3, 3)
    video = torch.arange(15.0).view(3, 5)
    parts = torch.cat([take_frames(video, chosen), take_frames(video, others)], 1)
    assert torch.equal(take_frames(parts, line), video)


def test_a_toy_model_gives_the_gradient_of_its_likelihood(monkeypatch):
    """A prior whose clips are N(m, s^2): its score is known, and SDS is the gradient of a squared distance to m.

    eps_hat = sqrt(1 - a) (z_t - sqrt(a) m) / (a s^2 + 1 - a), so the mean of g over the noise is
    w(t) sqrt(a (1 - a)) (z - m) / (a s^2 + 1 - a), which autograd finds as the gradient of its potential.
    """
    guidance, prompt = make("pixels", guidance_scale=1.0)
    model, spread, count = guidance.model, 0.5, 1024
    target = torch.rand(1, 12, FRAMES, 8, 8)
    step = 400
    a = model.alphas_cumprod[step]

    def answer(noisy, t, *args):
        eps = (1 - a).sqrt() * (noisy - a.sqrt() * target) / (a * spread**2 + 1 - a)
        return eps, sd.x0_from_eps(noisy, eps, model.alphas_cumprod[t])

    monkeypatch.setattr(model, "predict", answer)
    batch = frames(1)
    latent = guidance.encode(batch["rgb"][None]).requires_grad_()
    potential = (1 - a) * (a * (1 - a)).sqrt() / (a * spread**2 + 1 - a) * 0.5 * (latent - target).square().sum()
    (expected,) = torch.autograd.grad(potential, latent)
    batch = {key: value.repeat(count, *[1] * (value.ndim - 1)) for key, value in batch.items()}
    torch.manual_seed(0)
    result = guidance.distill(prompt_utils=prompt, **batch, timesteps=torch.full((count,), step))
    error = result.gradient.mean(0, keepdim=True) - expected
    assert error.abs().max() < 6 * result.gradient.std(0).max() / count**0.5  # of the mean over the noise
    assert error.norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("codec", CODECS)
def test_motion_is_amplified(codec):
    guidance, prompt = make(codec)
    batch, given = frames(), fixed(guidance)
    plain = guidance.distill(prompt_utils=prompt, **batch, **given).gradient
    amplified, _ = make(codec, motion_amp_scale=30.0)
    got = amplified.distill(prompt_utils=prompt, **batch, **given).gradient
    mean = plain.mean(2, keepdim=True)
    torch.testing.assert_close(got, mean + 30 * (plain - mean), rtol=1e-2, atol=1e-2)
    still = torch.ones(1, 2, 3, 1, 1) * torch.rand(1, 2, 1, 1, 1)
    torch.testing.assert_close(amplify_motion(still, 30.0), still)


@pytest.mark.parametrize("codec", CODECS)
def test_clips_in_one_batch_equal_a_loop(codec):
    guidance, prompt = make(codec)
    batch, given = frames(), fixed(guidance)
    together = guidance.distill(prompt_utils=prompt, **batch, **given)
    for clip in range(CLIPS):
        part = {key: value[clip * FRAMES : (clip + 1) * FRAMES] for key, value in batch.items()}
        own = {key: value[clip : clip + 1] for key, value in given.items()}
        alone = guidance.distill(prompt_utils=prompt, **part, **own)
        torch.testing.assert_close(together.gradient[clip], alone.gradient[0], rtol=1e-3, atol=1e-4)


def test_a_camera_may_be_given_once_for_a_clip():
    guidance, prompt = make()
    batch, given = frames(), fixed(guidance)
    expected = guidance.distill(prompt_utils=prompt, **batch, **given)
    for key in ("elevation", "azimuth", "camera_distances"):
        batch[key] = batch[key][::FRAMES]
    got = guidance.distill(prompt_utils=prompt, **batch, **given)
    assert torch.equal(got.gradient, expected.gradient)
    plain, _ = make(view_dependent_prompting=False)
    assert (plain.distill(prompt_utils=prompt, **batch, **given).gradient - got.gradient).abs().max() > 1e-5


def test_latents_may_be_given():
    guidance, prompt = make()
    batch, given = frames(), fixed(guidance)
    latents = guidance.encode(batch["rgb"].unflatten(0, (CLIPS, FRAMES)))
    expected = guidance.distill(prompt_utils=prompt, **batch, **given)
    batch["rgb"] = latents.permute(0, 2, 3, 4, 1).flatten(0, 1)
    got = guidance.distill(prompt_utils=prompt, **batch, **given, rgb_as_latents=True)
    torch.testing.assert_close(got.gradient, expected.gradient)


def test_frames_move_to_what_the_prior_sees(monkeypatch):
    """A prior that always answers with one clip: following its score leads there, also a few frames at a time."""
    guidance, prompt = make("pixels", guidance_scale=1.0, frame_grad_budget=2, num_frames=3)
    batch, target = frames(1, 3), torch.rand(1, 3, 16, 16, 3)
    clean, alphas = guidance.encode(target), guidance.model.alphas_cumprod
    monkeypatch.setattr(
        guidance.model, "predict", lambda noisy, t, *args: (sd.eps_from_x0(noisy, clean, alphas[t]), clean)
    )
    rgb = batch.pop("rgb").requires_grad_()
    for _ in range(120):
        (gradient,) = torch.autograd.grad(guidance(rgb, prompt, **batch)["loss_sds"], rgb)
        with torch.no_grad():
            rgb -= 0.5 * gradient
    assert (rgb - target[0]).abs().max() < 0.02


def test_pictures_to_look_at_and_samples():
    guidance, prompt = make("latents", vae_batch=3)
    out = guidance(prompt_utils=prompt, **frames(), guidance_eval=True)["eval"]
    assert out["bs"] == 8 and len(out["noise_levels"]) == 8
    for key in ("imgs_noisy", "imgs_1step"):
        assert out[key].shape == (8, 16, 16, 3) and out[key].min() >= 0 and out[key].max() <= 1
    cameras = [torch.tensor([0.0, 0.0]), torch.tensor([0.0, 180.0]), torch.ones(2)]
    video = guidance.sample(prompt, *cameras, steps=2, generator=torch.Generator().manual_seed(0))
    assert video.shape == (2, FRAMES, 16, 16, 3) and torch.isfinite(video).all()


def test_wide_frames():
    guidance, prompt = make("latents", height=16, width=32)
    out = guidance.distill(prompt_utils=prompt, **frames())
    assert out.gradient.shape == (CLIPS, 4, FRAMES, 8, 16)


def test_mistakes():
    with pytest.raises(ValueError, match="cfg_form is 'plus': it must be one of standard, text_plus"):
        make(cfg_form="plus")
    with pytest.raises(ValueError, match="frame_grad_budget is 0: it must be a whole number, 1 or more"):
        make(frame_grad_budget=0)
    with pytest.raises(UserError, match="sides divide by 2, got 15x16"):
        make(height=15)
    guidance, prompt = make()
    with pytest.raises(ValueError, match="7 images do not divide into clips of 4 frames"):
        guidance.distill(torch.rand(7, 16, 16, 3), prompt, *[torch.zeros(7)] * 3)


@pytest.mark.gpu
@pytest.mark.parametrize("half_dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("codec", CODECS)
def test_half_precision_on_a_gpu(codec, half_dtype):
    reference, prompt = make(codec)
    half, _ = make(codec, half_precision_weights=True, vae_half_precision=True, half_dtype=half_dtype)
    assert half.model.unet.dtype in (torch.float16, torch.bfloat16)
    batch = {key: value.cuda() for key, value in frames().items()}
    given = fixed(reference)
    rgb = batch["rgb"].requires_grad_()
    with torch.autocast("cuda", dtype=torch.float16):
        result = half.distill(prompt_utils=prompt, **batch, **given)
    result.loss.sum().backward()
    assert result.loss.dtype == torch.float32 and torch.isfinite(rgb.grad).all()
    expected = reference.distill(prompt_utils=prompt, **batch, **given).gradient
    error = (result.gradient - expected).norm() / expected.norm()
    assert error < (2e-2 if half_dtype == "fp16" else 1e-1)
