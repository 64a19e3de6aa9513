"""How well RIFE draws the middle frame of a real clip, against the plain average of the two ends.

    python benchmarks/rife_quality.py ../shared/data/real/blooming_rose

Prints, for frame sizes and gaps, the mean PSNR of the drawn middle frame: frame average, RIFE on the frames as they are
(``min_size=0``), RIFE on frames enlarged to at least 128 and 256; and the time of a call for one pair and two frames.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom"), str(ROOT / "extern")]

from threestudio_4d.interpolation.rife import RifeInterpolator  # noqa: E402


def read_clip(folder: Path, size: int) -> torch.Tensor:
    """``[N, size, size, 3]``: the frames on white, reduced by area."""
    frames = []
    for path in sorted(folder.glob("*.png"), key=lambda path: int(path.stem)):
        picture = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        frames.append(np.asarray(white.convert("RGB").resize((size, size), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(frames)).float() / 255


def mean_psnr(drawn: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean over frames, in dB."""
    error = (drawn.clamp(0, 1) - truth).square().flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="folder of square frames 0.png, 1.png, …")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--gaps", type=int, nargs="+", default=[2, 4, 8])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    makers = {f"min_size={size}": RifeInterpolator({"min_size": size}) for size in (0, 128, 256)}
    device = next(iter(makers.values())).device
    print(f"{arguments.clip.name}, device {device}; PSNR in dB, ms of a call for one pair and two times")
    print(" | ".join(["size", "gap", "average", *makers]))
    for size in arguments.sizes:
        clip = read_clip(arguments.clip, size).to(device)
        for gap in arguments.gaps:
            starts = torch.arange(0, len(clip) - gap, 3)
            first, truth, last = clip[starts], clip[starts + gap // 2], clip[starts + gap]
            cells = [f"{mean_psnr((first + last) / 2, truth):.2f}"]
            for maker in makers.values():
                drawn = torch.cat([maker(a[None], b[None], [0.5])[:, 0] for a, b in zip(first, last, strict=True)])
                times = []
                for _ in range(7):
                    begin = time.perf_counter()
                    maker(first[:1], last[:1], [1 / 3, 2 / 3]).cpu()
                    times.append(time.perf_counter() - begin)
                cells.append(f"{mean_psnr(drawn, truth):.2f} ({1e3 * float(np.median(times)):.0f} ms)")
            print(" | ".join([str(size), str(gap), *cells]), flush=True)


if __name__ == "__main__":
    main()
