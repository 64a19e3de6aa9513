"""Attention across frames by matrix products (``guidance/temporal_attention.py``) beside PyTorch's fused kernels.

    python benchmarks/temporal_attention.py --output temporal_attention.json
    python benchmarks/temporal_attention.py --device cpu --quick

The self-attention layers of the published video networks, one of each resolution, forward and backward: of Stable Video
Diffusion at 14 frames of 320 x 576, and of ZeroScope at 16 frames of that size, with the two copies of a clip that
guidance without a classifier takes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common import environment, measure, write_report
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from threestudio_4d.guidance.temporal_attention import ShortSequenceAttention

HEAD_WIDTH = 64
COPIES = 2
LATENT = (40, 72)
FRAMES = {"svd": 14, "zeroscope": 16}
WIDTHS = (320, 640, 1280, 1280)  # each at half the resolution of the one before


def step(layer: Attention, tokens: torch.Tensor) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        layer(tokens).sum().backward()
        tokens.grad = None

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a few sequences and repeats, to see that it runs")
    parser.add_argument("--output", type=Path, help="write the numbers as JSON here too")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    results = []
    for network, frames in FRAMES.items():
        for level, width in enumerate(WIDTHS):
            sequences = 8 if args.quick else COPIES * (LATENT[0] >> level) * (LATENT[1] >> level)
            layer = Attention(width, heads=width // HEAD_WIDTH, dim_head=HEAD_WIDTH).to(device, dtype)
            layer.requires_grad_(False)
            tokens = torch.randn(sequences, frames, width, device=device, dtype=dtype, requires_grad=True)
            row = {"network": network, "sequences": sequences, "frames": frames, "width": width}
            for name, processor in (("products", ShortSequenceAttention()), ("fused", AttnProcessor2_0())):
                layer.set_processor(processor)
                timing = {"repeats": 1, "warmup": 1} if args.quick else {}
                row[name] = measure(step(layer, tokens), device, **timing)
            ratio = row["fused"]["ms"] / row["products"]["ms"]
            print(", ".join(f"{key} {row[key]}" for key in ("network", "sequences", "frames", "width")), end=": ")
            print(f"products {row['products']['ms']:.2f} ms, fused {row['fused']['ms']:.2f} ms ({ratio:.2f} times)")
            results.append(row)
    if args.output is not None:
        write_report({**environment(device), "dtype": str(dtype), "results": results}, args.output)


if __name__ == "__main__":
    main()
