"""``sd-guidance`` end to end on randomly initialised priors: the published loss, gradients, prompts, precision."""

import pytest
import torch
from tiny_sd import tiny_sd

import threestudio
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd
from threestudio_4d.guidance.sd_guidance import StableDiffusionGuidance, load_stable_diffusion
from threestudio_4d.guidance.text_prompts import TextPromptProcessor

CODECS = ["pixels", "latents"]


def make(codec: str = "pixels", **cfg):
    """A guidance and the prompt that goes with it."""
    model = tiny_sd(codec)
    prompt = TextPromptProcessor({"prompt": "a fox", "negative_prompt": "a red car"}, model.text)()
    cfg = {"guidance_scale": 5.0, "half_precision_weights": False, "sample_posterior": False, **cfg}
    return StableDiffusionGuidance(cfg, model), prompt


def views(count: int = 4, size: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "rgb": torch.rand(count, size, size, 3, generator=generator),
        "elevation": torch.linspace(-10, 70, count),
        "azimuth": torch.linspace(-170, 170, count),
        "camera_distances": torch.full((count,), 2.0),
    }


def fixed(guidance: StableDiffusionGuidance, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((count, *guidance.model.latent_shape), generator=generator)
    return {
        "noise": noise.to(guidance.device),
        "timesteps": torch.linspace(100, 900, count).long().to(guidance.device),
    }


def test_registered():
    assert threestudio.find("sd-guidance") is StableDiffusionGuidance


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [16, 24])
def test_end_to_end(codec, size):
    guidance, prompt = make(codec, min_step_percent=0.2, max_step_percent=0.8)
    batch = views(size=size)
    batch["rgb"].requires_grad_()
    out = guidance(prompt_utils=prompt, **batch, timestamps=torch.zeros(4, 1), c2w=torch.eye(4).repeat(4, 1, 1))
    assert set(out) == {"loss_sds", "grad_norm", "min_step", "max_step"}
    assert out["loss_sds"].ndim == 0 and (out["min_step"], out["max_step"]) == (200, 800)
    out["loss_sds"].backward()
    assert batch["rgb"].grad.abs().sum() > 0 and torch.isfinite(batch["rgb"].grad).all()
    assert all(p.grad is None and not p.requires_grad for p in guidance.model.parameters())


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_loss_is_the_published_one(scale):
    """1/2 |z - sg(z - g)|^2 over B, g = (1 - a)(u + s (c - u) - eps), the prompt by the view, all by hand."""
    guidance, prompt = make("latents", guidance_scale=scale)
    model, batch, given = guidance.model, views(), fixed(guidance, 4)
    sentences = ["a fox, back view", "a fox, side view", "a fox, side view", "a fox, overhead view"]
    a = model.alphas_cumprod[given["timesteps"]].view(-1, 1, 1, 1)
    z = model.vae.encode(batch["rgb"].movedim(-1, 1) * 2 - 1).latent_dist.mode() * 0.18215
    noisy = a.sqrt() * z + (1 - a).sqrt() * given["noise"]
    cond, uncond = (
        model.unet(noisy, given["timesteps"], model.embed(texts)).sample for texts in (sentences, ["a red car"] * 4)
    )
    gradient = (1 - a) * (uncond + scale * (cond - uncond) - given["noise"])
    result = guidance.distill(prompt_utils=prompt, **batch, **given)
    torch.testing.assert_close(result.gradient, gradient, rtol=1e-3, atol=1e-3)
    loss = guidance(prompt_utils=prompt, **batch, **given)["loss_sds"]
    torch.testing.assert_close(loss, 0.5 * gradient.square().sum() / 4, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_gradient_reaches_the_pictures_through_the_encoder(codec):
    """d loss / d rgb equals the product of the encoder's Jacobian with gradient / B."""
    guidance, prompt = make(codec)
    batch = views()
    rgb = batch["rgb"].requires_grad_()
    result = guidance.distill(prompt_utils=prompt, **batch, **fixed(guidance, 4))
    (direct,) = torch.autograd.grad(result.level_losses().sum(), rgb)
    (expected,) = torch.autograd.grad(guidance.encode(rgb), rgb, result.gradient / 4)
    torch.testing.assert_close(direct, expected, rtol=1e-4, atol=1e-6)


def test_a_toy_model_gives_the_gradient_of_its_likelihood(monkeypatch):
    """A prior whose pictures are N(m, s^2): its score is known, and SDS is the gradient of a squared distance to m.

    eps_hat = sqrt(1 - a) (z_t - sqrt(a) m) / (a s^2 + 1 - a), so the mean of g over the noise is
    w(t) sqrt(a (1 - a)) (z - m) / (a s^2 + 1 - a), which autograd finds as the gradient of its potential.
    """
    guidance, prompt = make("pixels", guidance_scale=1.0, weighting_strategy="sds")
    model, spread = guidance.model, 0.5
    target = torch.rand(1, 12, 8, 8)
    count, step = 4096, 400
    a = model.alphas_cumprod[step]

    def answer(noisy, t, *args):
        eps = (1 - a).sqrt() * (noisy - a.sqrt() * target) / (a * spread**2 + 1 - a)
        return eps, sd.x0_from_eps(noisy, eps, model.alphas_cumprod[t])

    monkeypatch.setattr(model, "predict", answer)
    picture = torch.rand(1, 16, 16, 3)
    batch = {key: value[:1].expand(count, *value.shape[1:]) for key, value in views(1).items()}
    batch["rgb"] = picture.expand(count, -1, -1, -1)
    torch.manual_seed(0)
    result = guidance.distill(prompt_utils=prompt, **batch, timesteps=torch.full((count,), step))
    latent = guidance.encode(picture).requires_grad_()
    potential = (1 - a) * (a * (1 - a)).sqrt() / (a * spread**2 + 1 - a) * 0.5 * (latent - target).square().sum()
    (expected,) = torch.autograd.grad(potential, latent)
    error = result.gradient.mean(0, keepdim=True) - expected
    assert error.abs().max() < 6 * result.gradient.std(0).max() / count**0.5  # of the mean over the noise
    assert error.norm() < 0.1 * expected.norm()


def test_pictures_move_to_what_the_prior_sees(monkeypatch):
    """A prior that always answers with one picture: following its score leads there."""
    guidance, prompt = make("pixels", guidance_scale=1.0)
    batch, target = views(), torch.rand(4, 16, 16, 3)
    clean, alphas = guidance.encode(target), guidance.model.alphas_cumprod
    monkeypatch.setattr(
        guidance.model, "predict", lambda noisy, t, *args: (sd.eps_from_x0(noisy, clean, alphas[t]), clean)
    )
    rgb = batch.pop("rgb").requires_grad_()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(guidance(rgb, prompt, **batch)["loss_sds"], rgb)
        with torch.no_grad():
            rgb -= 0.5 * gradient
    assert (rgb - target).abs().max() < 0.01


def test_without_view_dependent_prompts(monkeypatch):
    guidance, prompt = make("latents", view_dependent_prompting=False)
    seen = {}

    def spy(noisy, t, text, negative, scale):
        seen.update(text=text, negative=negative)
        return noisy, noisy

    monkeypatch.setattr(guidance.model, "predict", spy)
    guidance(prompt_utils=prompt, **views())
    torch.testing.assert_close(seen["text"], guidance.model.embed(["a fox"] * 4))
    torch.testing.assert_close(seen["negative"], guidance.model.embed(["a red car"] * 4))


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("max_batch", [1, 4, 100])
def test_chunks_change_nothing(scale, max_batch):
    results = []
    for rows in (None, max_batch):
        guidance, prompt = make(guidance_scale=scale, max_batch=rows)
        results.append(guidance.distill(prompt_utils=prompt, **views(5), **fixed(guidance, 5)).gradient)
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)


def test_latents_instead_of_pictures():
    guidance, prompt = make("latents")
    batch = views() | {"rgb": torch.randn(4, 8, 8, 4).requires_grad_()}
    given = fixed(guidance, 4)
    result = guidance.distill(prompt_utils=prompt, **batch, **given, rgb_as_latents=True)
    (grad,) = torch.autograd.grad(result.level_losses().sum(), batch["rgb"])
    torch.testing.assert_close(grad.movedim(-1, 1), result.gradient / 4)
    with pytest.raises(ValueError, match="the prior has 4 latent channels, got 3"):
        guidance.distill(prompt_utils=prompt, **views(), rgb_as_latents=True)


def test_schedules():
    guidance, prompt = make(
        min_step_percent=[0, 0.98, 0.02, 8000],
        max_step_percent=[0, 0.98, 0.5, 8000],
        guidance_scale=[0, 50.0, 10.0, 100],
        grad_clip=[0, 1.0, 0.5, 100],
    )
    assert (guidance.min_step, guidance.max_step, guidance.guidance_scale, guidance.grad_clip) == (980, 980, 50.0, 1.0)
    guidance.do_update_step(0, 8000)
    assert (guidance.min_step, guidance.max_step, guidance.guidance_scale, guidance.grad_clip) == (20, 500, 10.0, 0.5)
    result = guidance.distill(prompt_utils=prompt, **views())
    assert (
        result.gradient.abs().max() <= 0.5 and 20 <= int(result.timesteps.min()) <= int(result.timesteps.max()) <= 500
    )


def test_pictures_to_look_at():
    guidance, prompt = make("latents")
    out = guidance(prompt_utils=prompt, **views(2), guidance_eval=True)["eval"]
    assert out["bs"] == 2 and len(out["noise_levels"]) == 2
    for key in ("imgs_noisy", "imgs_1step"):
        assert out[key].shape == (2, 16, 16, 3) and out[key].min() >= 0 and out[key].max() <= 1
    batch = views(2)
    del batch["rgb"]
    images = guidance.sample(prompt, **batch, steps=2, generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, 16, 16, 3) and torch.isfinite(images).all()


def test_checkpointing_the_encoder_changes_nothing():
    grads = []
    for checkpointing in (False, True):
        guidance, prompt = make("latents", vae_checkpointing=checkpointing)
        batch = views()
        rgb = batch["rgb"].requires_grad_()
        guidance.distill(prompt_utils=prompt, **batch, **fixed(guidance, 4)).loss.sum().backward()
        grads.append(rgb.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_autocast_of_the_trainer_is_ignored():
    guidance, prompt = make("latents")
    batch, given = views(), fixed(guidance, 4)
    expected = guidance.distill(prompt_utils=prompt, **batch, **given).gradient
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = guidance.distill(prompt_utils=prompt, **batch, **given).gradient
    torch.testing.assert_close(got, expected)


def test_a_saved_prior_is_found(tmp_path, monkeypatch):
    model = tiny_sd()
    model.text.save(tmp_path / "load/priors/words")
    model.save(tmp_path / "load/priors/mini", dtype=torch.float32, text_from="words")
    monkeypatch.chdir(tmp_path)
    guidance = StableDiffusionGuidance({"pretrained_model_name_or_path": "mini"})
    assert guidance.model.text is None
    assert torch.equal(guidance.model.unet.conv_in.weight, model.unet.conv_in.weight)
    assert load_stable_diffusion("mini", text=True).embed(["a fox"]).shape == (1, 12, 16)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="max_batch is 0: it must be a whole number, 1 or more"):
        make(max_batch=0)
    with pytest.raises(ValueError, match="half_dtype is 'fp8': it must be one of fp16, bf16"):
        make(half_dtype="fp8")
    (tmp_path / "v1-5.safetensors").touch()
    with pytest.raises(UserError, match="is one file; Stable Diffusion is read from a folder in diffusers layout"):
        load_stable_diffusion(str(tmp_path / "v1-5.safetensors"))


@pytest.mark.gpu
@pytest.mark.parametrize("half_dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("codec", CODECS)
def test_half_precision_on_a_gpu(codec, half_dtype):
    reference, prompt = make(codec)
    half, _ = make(codec, half_precision_weights=True, half_dtype=half_dtype)
    assert half.model.unet.dtype in (torch.float16, torch.bfloat16)
    batch = {key: value.cuda() for key, value in views().items()}
    given = fixed(reference, 4)
    rgb = batch["rgb"].requires_grad_()
    with torch.autocast("cuda", dtype=torch.float16):
        result = half.distill(prompt_utils=prompt, **batch, **given)
    result.loss.sum().backward()
    assert result.loss.dtype == torch.float32 and torch.isfinite(rgb.grad).all()
    expected = reference.distill(prompt_utils=prompt, **batch, **given).gradient
    error = (result.gradient - expected).norm() / expected.norm()
    assert error < (1e-2 if half_dtype == "fp16" else 6e-2)
