"""Find and read the weights of an LGM: a folder of this project, or a published checkpoint as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import UserError
from ..weights.network_folder import load_network, part_folder, save_network, write_index
from ..weights.resolve import resolve_prior
from .model import LGMModel

LGM_PARTS = ("lgm",)


def load_lgm(name: str, device: torch.device | str = "cpu") -> LGMModel:
    """A frozen LGM in single precision, from whatever ``name`` stands for (see ``resolve_prior``).

    Raises:
        UserError: there is none, or weights are missing, unknown or of another shape.
    """
    weights = resolve_prior(name, LGM_PARTS)
    if weights.kind == "folder":
        model = load_network(LGMModel, part_folder(weights.path, "lgm"))
    else:
        model = load_published(weights.path)
    return model.to(device).requires_grad_(False).eval()


def save_lgm(model: LGMModel, folder: str | Path, dtype: torch.dtype = torch.float16, int8: bool = False) -> None:
    """Write the folder that ``load_lgm`` reads, in ``dtype`` or in 8 bits (see ``int8_weights``)."""
    save_network(model, Path(folder) / "lgm", dtype, int8=int8)
    write_index(folder, {"_class_name": "LGMModel"})


def load_published(path: Path) -> LGMModel:
    """A checkpoint of the published code; its shapes tell the network's.

    Raises:
        UserError: the file holds no LGM, or one that does not fit.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path} is no published LGM: these are .safetensors files, such as model_fp16_fixrot")
    state = {name: value.float() for name, value in load_file(path).items()}
    try:
        model = LGMModel(**published_config(state))
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        raise UserError(f"{path} does not hold the weights of an LGM: {' '.join(lines[:3]).strip()}") from error
    return model


def published_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``LGMModel`` for a published state.

    Raises:
        KeyError: a weight that every LGM has is missing.
    """

    def levels(way: str) -> list[int]:
        found = [re.match(rf"unet\.{way}_blocks\.(\d+)\.nets\.0\.conv1\.weight", name) for name in state]
        return sorted(int(match.group(1)) for match in found if match)

    def widths(way: str) -> list[int]:
        return [state[f"unet.{way}_blocks.{level}.nets.0.conv2.weight"].shape[0] for level in levels(way)]

    def attention(way: str) -> list[bool]:
        return [f"unet.{way}_blocks.{level}.attns.0.attn.qkv.weight" in state for level in levels(way)]

    if not levels("down") or not levels("up"):
        raise KeyError("unet.down_blocks.0.nets.0.conv1.weight")
    layers = {name.split(".")[4] for name in state if name.startswith("unet.down_blocks.0.nets.")}
    return {
        "down_channels": widths("down"), "down_attention": attention("down"),
        "mid_attention": "unet.mid_block.attns.0.attn.qkv.weight" in state,
        "up_channels": widths("up"), "up_attention": attention("up"), "layers_per_block": len(layers),
    }  # fmt: skip
