"""``vsd-guidance``: its two gradients by hand, that they keep to their own sides, and what a checkpoint holds."""

import pytest
import torch
from tiny_sd import tiny_sd
from torch import nn

import threestudio
from threestudio.systems.utils import get_parameters
from threestudio.utils.misc import set_device
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd
from threestudio_4d.guidance.sd_guidance import StableDiffusionGuidance
from threestudio_4d.guidance.vsd_guidance import VSDGuidance
from threestudio_4d.tiny_priors.rendering.rasterise import camera_to_world


@pytest.fixture(autouse=True)
def _cpu():
    set_device("cpu")
    yield
    set_device(None)


def toy(codec="latents", prediction="epsilon", seed=0):
    model = tiny_sd(codec, prediction, seed)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = 8  # with one channel a group, the norm would take the camera's shift away again
    return model


class Prompts:
    """The prompt with view words and the plain one, the same for all views."""

    def __init__(self) -> None:
        self.viewed, self.plain, self.negative = (torch.randn(1, 5, 16) for _ in range(3))

    def get_text_embeddings(self, elevation, azimuth, camera_distances, view_dependent_prompting):
        text = self.viewed if view_dependent_prompting else self.plain
        return torch.cat([part.expand(len(elevation), -1, -1) for part in (text, self.negative)])


def build(model=None, lora_model=None, trained=True, **cfg) -> VSDGuidance:
    guidance = VSDGuidance({"sample_posterior": False, **cfg}, model or toy(), lora_model)
    if trained:  # as if it had learnt for a while: B of the LoRA and the MLP's end are no longer zero
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in guidance.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return guidance


def views(count=2, size=16) -> dict[str, torch.Tensor]:
    cameras = {"elevation": torch.full((count,), 15.0), "azimuth": torch.arange(count) * 90.0 + 10}
    cameras["camera_distances"] = torch.full((count,), 2.5)
    rgb = torch.rand(count, size, size, 3, requires_grad=True)
    return {"rgb": rgb, **cameras, "c2w": camera_to_world(*cameras.values())}


MODELS = {
    "single": lambda: (toy(), None),
    "single, velocity": lambda: (toy("pixels"), None),
    "two": lambda: (toy(), toy(seed=3)),
    "two, noise and velocity": lambda: (toy(), toy("latents", "v_prediction", 3)),
}


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_gradient_is_the_difference_of_two_scores(kind):
    """dL_vsd/dz = (1 - a) (eps_pre - eps_lora) / B; fresh copies of the networks say what the two are."""
    model, lora_model = MODELS[kind]()
    plain_pre = MODELS[kind]()[0]
    guidance, prompts, batch = build(model, lora_model), Prompts(), views()
    latents = guidance.encode(batch["rgb"]).detach().requires_grad_()
    guidance.encode = lambda rgb: latents
    noise, t = torch.randn_like(latents), torch.tensor([100, 600])
    out = guidance(**batch, prompt_utils=prompts, noise=noise, timesteps=t)
    a = guidance.alphas_cumprod[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * latents.detach() + (1 - a).sqrt() * noise
    text, negative, plain = (x.expand(2, -1, -1) for x in (prompts.viewed, prompts.negative, prompts.plain))
    with torch.no_grad():
        eps_pre, _ = plain_pre.predict(noisy, t, text, negative, 7.5)
        second = guidance.lora.model
        raw = second.unet(noisy, t, plain, class_labels=batch["c2w"].flatten(1)).sample
        eps_lora, _ = second.to_epsilon_and_x0(raw, noisy, t)
    assert (eps_pre - eps_lora).abs().mean() > 1e-2
    out["loss_vsd"].backward(retain_graph=True)
    torch.testing.assert_close(latents.grad, (1 - a) * (eps_pre - eps_lora) / 2, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(out["loss_vsd"], 0.5 * 2 * latents.grad.square().sum(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", list(MODELS))
def test_each_loss_reaches_its_own_side(kind):
    guidance, batch = build(*MODELS[kind]()), views()
    out = guidance(**batch, prompt_utils=Prompts())
    trained = list(guidance.parameters())
    assert torch.autograd.grad(out["loss_lora"], batch["rgb"], retain_graph=True, allow_unused=True) == (None,)
    assert all(
        grad is None for grad in torch.autograd.grad(out["loss_vsd"], trained, retain_graph=True, allow_unused=True)
    )
    (out["loss_vsd"] + out["loss_lora"]).backward()
    assert batch["rgb"].grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    frozen = [p for m in {guidance.model, guidance.lora.model} for p in m.parameters() if id(p) not in map(id, trained)]
    assert frozen and not any(p.requires_grad for p in frozen)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_of_the_lora_by_hand(prediction):
    guidance = build(toy("latents", prediction), lora_n_timestamp_samples=2)
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 8, 8)
    text, camera, t = torch.randn(2, 5, 16), torch.randn(2, 16), torch.tensor([3, 400, 700, 999])
    kept = torch.tensor([1.0, 0.0, 1.0, 1.0])
    loss = guidance.lora_loss(latents, text, camera, t, noise, kept)
    twice = latents.repeat(2, 1, 1, 1)
    a = guidance.alphas_cumprod[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * twice + (1 - a).sqrt() * noise
    output = guidance.lora.denoise(noisy, t, text.repeat(2, 1, 1), camera.repeat(2, 1) * kept[:, None])
    target = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * twice
    torch.testing.assert_close(loss, (output - target).square().mean())
    assert (loss - guidance.lora_loss(latents, text, camera, t, noise, torch.ones(4))).abs() > 1e-6


def test_cameras_are_hidden_for_a_tenth():
    guidance, seen = build(), []
    guidance.lora.denoise = lambda noisy, t, text, camera: seen.append(camera) or torch.zeros_like(noisy)
    latents, camera = torch.randn(500, 4, 8, 8), torch.ones(500, 16)
    guidance.lora_loss(latents, torch.randn(500, 5, 16), camera)
    hidden = (seen[0] == 0).all(dim=1)
    assert ((seen[0] == 1).all(dim=1) | hidden).all() and 20 <= hidden.sum() <= 85
    guidance.cfg.lora_cfg_training = False
    guidance.lora_loss(latents, torch.randn(500, 5, 16), camera)
    assert (seen[1] == 1).all()


def test_at_first_the_second_score_is_the_first():
    guidance, fresh, batch = build(trained=False, guidance_scale=1.0), toy(), views()
    noisy, t, text = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 5, 16)
    expected = fresh.predict(noisy, t, text)[0]
    camera = guidance.camera(batch["c2w"], None)
    torch.testing.assert_close(guidance.lora.predict(noisy, t, text, camera)[0], expected)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in guidance.parameters())


def test_the_pretrained_model_is_itself_when_asked():
    """Adapters and camera embedding do not leak into the first score, nor into samples."""
    guidance, fresh = build(), toy()
    noisy, t, text, negative = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), *torch.randn(2, 2, 5, 16)
    torch.testing.assert_close(guidance.predict(noisy, t, text, negative), fresh.predict(noisy, t, text, negative, 7.5))
    cameras = {key: value for key, value in views().items() if key not in ("rgb", "c2w")}
    prompts = Prompts()
    drawn = guidance.sample(prompts, **cameras, steps=2, generator=torch.Generator().manual_seed(0))
    text, negative = prompts.get_text_embeddings(*cameras.values(), True).chunk(2)
    expected = fresh.sample(text, negative, 2, 7.5, torch.Generator().manual_seed(0)).movedim(1, -1)
    torch.testing.assert_close(drawn, expected)


def test_checkpoints_hold_the_lora_and_the_camera_only():
    guidance = build()
    names = set(guidance.state_dict())
    assert all(name.startswith(("lora.weights.", "lora.camera.")) for name in names)
    assert sum("lora_A" in name for name in names) == sum("lora_B" in name for name in names) == 4 * 2 * 4
    small, large = (sum(v.numel() for v in state.values()) for state in (guidance.state_dict(), toy().state_dict()))
    assert small < large / 10
    other = build(trained=False)
    other.load_state_dict(guidance.state_dict())
    noisy, t, text = torch.randn(1, 4, 8, 8), torch.tensor([400]), torch.randn(1, 5, 16)
    camera = torch.randn(1, 16)
    torch.testing.assert_close(
        other.lora.denoise(noisy, t, text, camera), guidance.lora.denoise(noisy, t, text, camera)
    )


def test_the_optimizer_finds_the_lora_under_the_guidance():
    system = nn.Module()
    system.guidance = build()
    found = get_parameters(system, "guidance")
    assert {id(p) for p in found} == {id(p) for p in system.guidance.parameters()} and found
    assert set(system.state_dict()) == {f"guidance.{name}" for name in system.guidance.state_dict()}


def test_training_the_lora_lowers_its_loss():
    guidance, latents = build(trained=False), 0.3 * torch.randn(1, 4, 8, 8).repeat(8, 1, 1, 1)
    fixed = (torch.randn(1, 5, 16).expand(8, -1, -1), torch.randn(1, 16).expand(8, -1), torch.arange(8) * 120)
    noise, kept = torch.randn_like(latents), torch.ones(8)
    optimizer = torch.optim.AdamW(guidance.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = guidance.lora_loss(latents, *fixed, noise, kept)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_half_precision_unet_with_single_precision_lora():
    """What a GPU runs: the frozen UNet in bf16, the trained weights in float32."""
    model = toy()
    nn.Module.to(model.unet, torch.bfloat16)
    guidance = build(model)
    assert {p.dtype for p in guidance.parameters()} == {torch.float32}
    out = guidance(**views(), prompt_utils=Prompts())
    (out["loss_vsd"] + out["loss_lora"]).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in guidance.parameters())


def test_options_and_what_it_refuses():
    assert threestudio.find("vsd-guidance") is VSDGuidance
    batch = views()
    mvp = torch.randn(2, 4, 4)
    guidance = build(camera_condition_type="mvp", guidance_scale_lora=2.0)
    torch.testing.assert_close(guidance.camera(batch["c2w"], mvp), mvp.flatten(1))
    out = guidance(**batch, mvp_mtx=mvp, prompt_utils=Prompts(), guidance_eval=True)
    assert {"loss_vsd", "loss_lora", "grad_norm", "min_step", "max_step", "eval"} == set(out)
    with pytest.raises(ValueError, match="needs mvp_mtx"):
        guidance(**batch, prompt_utils=Prompts())
    with pytest.raises(ValueError, match="camera_condition_type is 'x': it must be one of extrinsics, mvp"):
        build(camera_condition_type="x")
    with pytest.raises(ValueError, match="lora_n_timestamp_samples is 0: it must be a whole number, 1 or more"):
        build(lora_n_timestamp_samples=0)
    with pytest.raises(UserError, match="must share their latents and their noise schedule"):
        build(toy(), toy("pixels"))


def test_distill_follows_both_scores_too():
    guidance, batch = build(), views()
    noise, t = torch.randn(2, 4, 8, 8), torch.tensor([300, 600])
    given = {**batch, "prompt_utils": Prompts(), "noise": noise, "timesteps": t}
    torch.manual_seed(0)
    alone = guidance.distill(**given)
    torch.manual_seed(0)
    assert torch.equal(alone.level_losses()[0], guidance(**given)["loss_vsd"])
    plain = StableDiffusionGuidance.distill(guidance, **given)
    assert not torch.allclose(alone.gradient, plain.gradient)
    with pytest.raises(TypeError, match="unexpected keyword argument 'noises'"):
        guidance.distill(**given, noises=noise)


def test_guidance_of_the_second_score_by_hand():
    guidance = build()
    noisy, t, text, camera = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 5, 16), torch.randn(2, 16)
    c, u = (guidance.lora.denoise(noisy, t, text, x) for x in (camera, torch.zeros_like(camera)))
    eps, x0 = guidance.lora.predict(noisy, t, text, camera, 3.0)
    torch.testing.assert_close(eps, u + 3 * (c - u))
    torch.testing.assert_close(x0, sd.x0_from_eps(noisy, eps, guidance.alphas_cumprod[t]))


@pytest.mark.parametrize("two", [False, True])
def test_checkpointing_changes_no_gradient(two):
    def gradients(checkpointing):
        guidance = build(toy(), toy(seed=3) if two else None, lora_checkpointing=checkpointing)
        latents, text, camera = (torch.ones(shape) for shape in ((2, 4, 8, 8), (2, 5, 16), (2, 16)))
        loss = guidance.lora_loss(latents, text, camera, torch.tensor([5, 900]), latents * 0.5, torch.ones(2))
        return torch.autograd.grad(loss, list(guidance.parameters()))

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.gpu
@pytest.mark.parametrize("two", [False, True])
def test_on_a_gpu(two):
    set_device("cuda")
    guidance = build(toy(), toy(seed=3) if two else None)
    assert {p.dtype for p in guidance.lora.model.unet.parameters()} == {torch.bfloat16, torch.float32}
    batch = {key: value.detach().cuda().requires_grad_(key == "rgb") for key, value in views().items()}
    optimizer = torch.optim.AdamW(guidance.parameters(), lr=1e-3)
    for _ in range(3):
        out = guidance(**batch, prompt_utils=Prompts())
        optimizer.zero_grad()
        (out["loss_vsd"] + out["loss_lora"]).backward()
        optimizer.step()
    assert torch.isfinite(batch["rgb"].grad).all() and batch["rgb"].grad.abs().sum() > 0
    assert all(torch.isfinite(p).all() for p in guidance.parameters())
