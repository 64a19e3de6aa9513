"""Convert an original Zero123 checkpoint to a folder in diffusers layout, which is smaller and loads faster.

    python -m threestudio_4d.diffusion.zero123.convert load/zero123/zero123-xl.ckpt load/zero123/zero123-xl
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from ...atomic import atomic_folder
from ...command import command
from ...errors import UserError
from .checkpoint import load_zero123_checkpoint


def convert(checkpoint: Path, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the networks of ``checkpoint`` to ``folder``, which must be new or empty.

    Raises:
        UserError: the folder holds something, or the checkpoint is not a complete Zero123.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty; choose another folder")
    model = load_zero123_checkpoint(checkpoint)
    with atomic_folder(folder) as partial:
        model.save(partial, dtype=dtype, max_shard_size="5GB")


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="zero123-xl.ckpt, or a sibling of the same architecture")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    convert(options.checkpoint, options.folder, getattr(torch, options.dtype))
    print(f"wrote {options.folder}; use it as system.guidance.pretrained_model_name_or_path={options.folder}")


if __name__ == "__main__":
    sys.exit(main())
