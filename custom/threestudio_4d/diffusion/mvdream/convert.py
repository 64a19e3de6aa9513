"""Convert an original MVDream checkpoint to a folder in diffusers layout, which loads faster and can read sentences.

    python -m threestudio_4d.diffusion.mvdream.convert load/mvdream/sd-v2.1-base-4view.pt load/mvdream/4view \
        --tokenizer FOLDER

The tokenizer is not in the checkpoint: FOLDER is ``tokenizer`` of any Stable Diffusion 2 in diffusers layout. Without
it the folder serves as a guidance, and the prompt processor needs another prior with the same text tower.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ...atomic import atomic_folder
from ...command import command
from ...errors import UserError
from ..text import load_tokenizer, save_tokenizer
from ..weights.network_folder import save_network
from ..weights.safe_checkpoint import read_state_dict
from .checkpoint import build_mvdream, build_text_tower, fill_from_checkpoint, fill_text_tower


def convert(checkpoint: Path, folder: Path, tokenizer: Path | None = None, dtype: torch.dtype = torch.float32) -> None:
    """Write the networks of ``checkpoint`` to ``folder``, which must be new or empty.

    Raises:
        UserError: the folder holds something, or the checkpoint is not a complete MVDream.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists and is not empty; choose another folder")
    reader = load_tokenizer(tokenizer) if tokenizer is not None else None
    state = read_state_dict(checkpoint)
    model, tower = build_mvdream(empty=True), build_text_tower(empty=True)
    fill_from_checkpoint(model, state, name=str(checkpoint))
    fill_text_tower(tower, state, name=str(checkpoint))
    with atomic_folder(folder) as partial:
        model.save(partial, dtype=dtype, max_shard_size="5GB")
        save_network(tower, partial / "text_encoder", dtype, "5GB")
        if reader is not None:
            save_tokenizer(reader, partial / "tokenizer")


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="sd-v2.1-base-4view.pt")
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder of a Stable Diffusion 2")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    options = parser.parse_args(argv)
    convert(options.checkpoint, options.folder, options.tokenizer, getattr(torch, options.dtype))
    print(f"wrote {options.folder}; use it as system.guidance.pretrained_model_name_or_path={options.folder}")


if __name__ == "__main__":
    sys.exit(main())
