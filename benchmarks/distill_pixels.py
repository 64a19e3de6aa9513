"""Optimise plain pixels under a guidance, to see that they move towards what the prior draws by itself.

    python benchmarks/distill_pixels.py svd-guidance --steps 300 --out svd.png
    python benchmarks/distill_pixels.py svd-guidance --set guidance_scale=2 min_step_percent=0.5

There is no geometry: Adam changes the images themselves, from noise, along the gradient of the guidance. The sheet has
a row for what the prior is given (if it is shown something), for the pixels at the start, after a quarter, a half and
all of the steps, and for samples of the prior. Printed for each of these: the root mean square distance to the nearest
of a few samples, and how far samples are from each other.

A guidance is added by a function in ``DEMOS`` that returns a ``Demo``.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from common import environment
from torch import Tensor

import threestudio
from threestudio.utils.misc import set_device
from threestudio_4d.tiny_priors.assets.creature import creature_meshes, render_view
from threestudio_4d.tiny_priors.rendering.rasterise import DISTANCE, camera_to_world, on_white

GUIDANCE_RATE = 1e-3  # of the parameters of a guidance that has some


@dataclass
class Demo:
    """A prepared guidance, asked about N images at once (the frames of a clip, views, or single pictures).

    Attributes:
        guidance: ``update_step`` is called before each step.
        size: (N, H, W) of the pixels that are optimised.
        loss: of images [N, H, W, 3] in [0, 1].
        sample: images [N, H, W, 3] that the prior draws by itself, given a generator.
        given: pictures [M, H, W, 3] that the prior is shown, or none.
    """

    guidance: Any
    size: tuple[int, int, int]
    loss: Callable[[Tensor], Tensor]
    sample: Callable[[torch.Generator], Tensor]
    given: Tensor = field(default_factory=lambda: torch.zeros(0))


def svd(cfg: dict[str, Any]) -> Demo:
    """A clip that starts from one picture: the walking creature, which no prior has seen."""
    settings = {"guidance_scale": 2.0, "min_step_percent": 0.4, "max_step_percent": [0, 0.95, 0.6, 120]}
    settings["weighting_strategy"] = "x0"
    guidance = threestudio.find("svd-guidance")({"fps": 12.0, **settings, **cfg})
    height, width = guidance.size
    picture = on_white(render_view(creature_meshes(8), 0.0, size=height))[:1].movedim(1, -1).to(guidance.device)
    guidance.prepare(picture)
    return Demo(
        guidance,
        (guidance.num_frames, height, width),
        lambda rgb: guidance(rgb)["loss_sds"],
        lambda generator: guidance.sample(generator=generator)[0],
        picture,
    )


def prompt_utils(cfg: dict[str, Any], prompt: str) -> Any:
    """Embeddings of ``prompt``, of the entry of that name in ``cfg``, or by the prior named in ``text``."""
    settings = {"prompt": cfg.pop("prompt", prompt), "pretrained_model_name_or_path": cfg.pop("text", "clip-tiny")}
    return threestudio.find("text-prompt-processor")(settings)()


def ring(count: int, device: torch.device) -> dict[str, Tensor]:
    """Level cameras evenly around the object, the first in front of it."""
    azimuth = torch.arange(count, device=device) * (360.0 / count)
    cameras = {"elevation": azimuth * 0, "azimuth": azimuth, "camera_distances": azimuth * 0 + DISTANCE}
    return cameras | {"c2w": camera_to_world(*cameras.values())}


# Timesteps begin high: at lower ones the networks take the noise that the pixels start from for texture, and fill the
# picture with it.


def mvdream(cfg: dict[str, Any]) -> Demo:
    """Four views of one object, from a sentence."""
    prompts = prompt_utils(cfg, "a fox")
    settings = {"guidance_scale": 2.0, "min_step_percent": [0, 0.8, 0.3, 80], "max_step_percent": [0, 0.98, 0.6, 200]}
    guidance = threestudio.find("mvdream-guidance")({**settings, **cfg})
    cameras = ring(guidance.model.views, guidance.device)
    size = guidance.image_size
    return Demo(
        guidance,
        (guidance.model.views, size, size),
        lambda rgb: guidance(rgb, prompts, **cameras)["loss_sds"],
        lambda generator: guidance.sample(prompts, **cameras, guidance_scale=1.5, generator=generator),
    )


def stable_diffusion(cfg: dict[str, Any]) -> Demo:
    """Four pictures for one sentence, each from its side."""
    prompts = prompt_utils(cfg, "a fox")
    settings = {"guidance_scale": 1.5, "min_step_percent": [0, 0.8, 0.2, 80], "max_step_percent": [0, 0.98, 0.5, 100]}
    guidance = threestudio.find("sd-guidance")({**settings, **cfg})
    cameras = ring(4, guidance.device)
    angles = {key: value for key, value in cameras.items() if key != "c2w"}
    return Demo(
        guidance,
        (4, guidance.image_size, guidance.image_size),
        lambda rgb: guidance(rgb, prompts, **cameras)["loss_sds"],
        lambda generator: guidance.sample(prompts, **angles, guidance_scale=1.5, generator=generator),
    )


def vsd(cfg: dict[str, Any]) -> Demo:
    """Four pictures for one sentence, each from its side, beside the LoRA that learns them."""
    prompts = prompt_utils(cfg, "a fox")
    settings = {"guidance_scale": 1.5, "min_step_percent": [0, 0.8, 0.2, 120], "max_step_percent": [0, 0.98, 0.6, 200]}
    guidance = threestudio.find("vsd-guidance")({**settings, **cfg})
    cameras = ring(4, guidance.device)
    angles = {key: value for key, value in cameras.items() if key != "c2w"}

    def loss(rgb: Tensor) -> Tensor:
        out = guidance(rgb, prompts, **cameras)
        return out["loss_vsd"] + out["loss_lora"]

    return Demo(
        guidance,
        (4, guidance.image_size, guidance.image_size),
        loss,
        lambda generator: guidance.sample(prompts, **angles, guidance_scale=1.5, generator=generator),
    )


def text_to_video(cfg: dict[str, Any]) -> Demo:
    """A clip for one sentence, seen from the side."""
    prompts = prompt_utils(cfg, "a fox walking")
    settings = {"guidance_scale": 3.0, "min_step_percent": [0, 0.85, 0.6, 100], "max_step_percent": 0.98}
    guidance = threestudio.find("t2v-guidance")({**settings, **cfg})
    frames, (height, width) = guidance.num_frames, guidance.frame_size
    zero = torch.zeros(1, device=guidance.device)
    cameras = {"elevation": zero, "azimuth": zero + 90, "camera_distances": zero + DISTANCE}
    return Demo(
        guidance,
        (frames, height, width),
        lambda rgb: guidance(rgb, prompts, **cameras)["loss_sds"],
        lambda generator: guidance.sample(prompts, **cameras, guidance_scale=3.0, generator=generator)[0],
    )


DEMOS: dict[str, Callable[[dict[str, Any]], Demo]] = {"svd-guidance": svd, "mvdream-guidance": mvdream}
DEMOS |= {"sd-guidance": stable_diffusion, "vsd-guidance": vsd, "t2v-guidance": text_to_video}


def optimise(demo: Demo, steps: int, rate: float, seed: int) -> dict[str, Tensor]:
    """The pixels at the start and after a quarter, a half and all of the steps; [N, H, W, 3] each."""
    device = demo.guidance.device
    torch.manual_seed(seed)
    rgb = (0.5 + 0.2 * torch.randn(*demo.size, 3, device=device)).clamp(0, 1).requires_grad_()
    optimizer = torch.optim.Adam([rgb], lr=rate, betas=(0.9, 0.99))
    if isinstance(demo.guidance, torch.nn.Module):  # one that learns itself
        optimizer.add_param_group({"params": list(demo.guidance.parameters()), "lr": GUIDANCE_RATE})
    seen = {"start": rgb.detach().clone()}
    for step in range(steps):
        demo.guidance.do_update_step(0, step)
        loss = demo.loss(rgb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate * (1 - 0.9 * step / steps)
        optimizer.step()
        with torch.no_grad():
            rgb.clamp_(0, 1)
        if step + 1 in (steps // 4, steps // 2, steps):
            seen[f"{step + 1} steps"] = rgb.detach().clone()
            print(f"step {step + 1}: loss {loss.item():.4g}", flush=True)
    return seen


def distance(images: Tensor, samples: list[Tensor]) -> float:
    """Root mean square distance of pixels to the nearest sample."""
    return min((images - sample).square().mean().sqrt().item() for sample in samples)


def write_sheet(rows: dict[str, Tensor], path: Path) -> None:
    """One row for each entry, [N, H, W, 3] in [0, 1] each; short rows are filled with white."""
    longest = max(len(row) for row in rows.values())
    strips = []
    for row in rows.values():
        row = row.detach().float().cpu()
        row = torch.cat([row, torch.ones(longest - len(row), *row.shape[1:])])
        strips.append(torch.cat(list(row), 1))
    sheet = (torch.cat(strips).clamp(0, 1) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    print(f"wrote {path}: rows are {', '.join(rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("guidance", choices=list(DEMOS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of Adam at the start; falls to a tenth")
    parser.add_argument("--samples", type=int, default=4, help="how many samples distances are taken to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="entries of the guidance's config")
    parser.add_argument("--out", type=Path, default=Path("distill_pixels.png"))
    arguments = parser.parse_args()
    set_device(torch.device(arguments.device))
    cfg = {key: yaml.safe_load(value) for key, value in (entry.split("=", 1) for entry in arguments.set)}
    demo = DEMOS[arguments.guidance](cfg)
    print(environment(arguments.device))

    generator = torch.Generator(demo.guidance.device).manual_seed(arguments.seed)
    samples = [demo.sample(generator).float() for _ in range(arguments.samples)]
    seen = optimise(demo, arguments.steps, arguments.rate, arguments.seed)
    for name, images in seen.items():
        print(f"{name}: distance to the nearest of {len(samples)} samples {distance(images, samples):.3f}")
    if len(samples) > 1:
        others = [distance(sample, samples[:i] + samples[i + 1 :]) for i, sample in enumerate(samples)]
        print(f"samples: mean distance to the nearest other sample {sum(others) / len(others):.3f}")
    given = {"given": demo.given} if len(demo.given) else {}
    shown = {f"sample {i + 1}": sample for i, sample in enumerate(samples[:2])}
    write_sheet(given | seen | shown, arguments.out)


if __name__ == "__main__":
    main()
