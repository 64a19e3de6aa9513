"""Pictures and clips a second that the data engine of the built-in priors draws and renders.

    python benchmarks/data_engine.py --pack motion.npz --output data_engine.json
    python benchmarks/data_engine.py --device cpu --quick

Without ``--pack`` it renders random creatures (``prior.bestiary``). Measured at 64 x 64 and 128 x 128, each as the
median of repeated batches after warm-up, with all a training step needs (drawing, rendering, compositing on white):

* ``pairs``: two pictures of a pose, for the novel-view prior;
* ``single``: one picture of a pose; ``views``: four views around a pose; both with captions and cameras;
* ``clips``: clips of 14 or 16 frames with captions.

And once each: loading the meshes (reading and skinning), and new shapes and palettes for all of them (``ShapeJitter``).
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from common import environment, measure, write_report

from threestudio_4d.tiny_priors.assets.bestiary import make_creature
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes
from threestudio_4d.tiny_priors.sampling.clip_sampler import ClipSampler
from threestudio_4d.tiny_priors.sampling.jitter import ShapeJitter
from threestudio_4d.tiny_priors.sampling.pairs import PairSampler
from threestudio_4d.tiny_priors.sampling.view_sampler import ViewSampler

SIZES = (64, 128)
VIEWS = 4
CLIP_FRAMES = (14, 16)


def load_meshes(pack: str | None, device: torch.device, creatures: int, limit: int | None) -> PosedMeshes:
    """The meshes of a pack, or so many random creatures with a clip each."""
    if pack is not None:
        return PosedMeshes.load(pack, device, limit)
    return PosedMeshes.from_assets([make_creature(seed) for seed in range(creatures)], device)


def samplers(meshes: PosedMeshes, size: int) -> dict[str, tuple[Any, int]]:
    """What is timed: a sampler, and the pictures in one of its samples."""
    clips = {f"clips of {n}": (ClipSampler(meshes, n, size, validation=None), n) for n in CLIP_FRAMES}
    return {
        "pairs": (PairSampler(meshes, size, validation=None), 2),
        "single": (ViewSampler(meshes, 1, size, validation=None), 1),
        "views": (ViewSampler(meshes, VIEWS, size, validation=None), VIEWS),
        **clips,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few creatures, small batches and few repeats")
    parser.add_argument("--pack", help="assets to render, as prior.assets writes them; several separated by commas")
    parser.add_argument("--limit", type=int, help="at most that many animated assets and as many stills")
    parser.add_argument("--pictures", type=int, default=8192, help="pictures of a batch")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, help="write the numbers as JSON here too")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    pictures = 64 if arguments.quick else arguments.pictures
    timing = {"repeats": 3, "warmup": 1} if arguments.quick else {"repeats": arguments.repeats}

    began = time.perf_counter()
    meshes = load_meshes(arguments.pack, device, 4 if arguments.quick else 64, arguments.limit)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    report: dict[str, Any] = {
        **environment(device),
        "meshes": "a pack" if arguments.pack else "random creatures",
        "assets": len(meshes.names),
        "animated": sum(meshes.animated),
        "poses": meshes.poses,
        "posed_vertices": len(meshes.vertices),
        "load_s": time.perf_counter() - began,
        "results": [],
    }
    print(
        f"{report['assets']} assets, {report['animated']} of them animated, {report['poses']} poses, "
        f"{report['posed_vertices'] / 1e6:.1f} million posed vertices, loaded in {report['load_s']:.1f} s"
    )
    for size in SIZES:
        for name, (sampler, frames) in samplers(meshes, size).items():
            count = max(1, pictures // frames)
            numbers = measure(lambda sampler=sampler, count=count: sampler(count), device, **timing)
            rates = {"samples_per_s": 1e3 * count / numbers["ms"], "images_per_s": 1e3 * count * frames / numbers["ms"]}
            report["results"].append({"size": size, "kind": name, "batch": count, **numbers, **rates})
            what = "clips/s" if name.startswith("clips") else "samples/s"
            print(
                f"{size} x {size}, {name}: {rates['images_per_s']:,.0f} images/s, "
                f"{rates['samples_per_s']:,.0f} {what}, {numbers['ms']:.1f} ms a batch of {count}",
                flush=True,
            )
    for by_asset in (False, True):
        jitter = ShapeJitter(meshes, by_asset=by_asset)
        key = "jitter by asset" if by_asset else "jitter by pose"
        report[key] = measure(jitter.refresh, device, repeats=3, warmup=1)
        memory = f", {report[key]['added_gib']:.1f} GiB more" if "added_gib" in report[key] else ""
        print(f"{key}: {report[key]['ms']:.1f} ms{memory}", flush=True)
        del jitter
    if arguments.output is not None:
        write_report(report, arguments.output)


if __name__ == "__main__":
    main()
