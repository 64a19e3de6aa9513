"""Networks of a prior in folders of the diffusers layout: read strictly, written in shards or in 8 bits."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...errors import UserError
from ..codec import PixelUnshuffleCodec
from .files import check_weight_file, read_config, weight_files
from .int8 import load_int8, save_int8
from .resolve import INDEX_NAME, part_path

MAX_SHARD_SIZE = "15MB"


def write_index(folder: str | Path, index: dict[str, Any]) -> None:
    """Write ``model_index.json`` of a prior's folder."""
    (Path(folder) / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def part_folder(folder: str | Path, part: str) -> Path:
    """Where a part of a prior stands.

    Raises:
        UserError: there is no such folder.
    """
    path = part_path(Path(folder), part)
    if not path.is_dir():
        raise UserError(f"{folder} is not a complete prior in diffusers layout: it has no folder '{part}' ({path})")
    return path


def load_network(model_class: type[nn.Module], folder: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network of diffusers or transformers, in evaluation mode, every weight from its files.

    Args:
        model_class: such as ``UNet2DConditionModel`` or ``CLIPTextModel``.
        folder: holds ``config.json`` and safetensors (or ``.bin``, read without running code), or 8-bit weights; a
            variant (``*.fp16.safetensors``) does where there are no plain files.

    Raises:
        UserError: files or weights are missing, damaged, unknown or of another shape.
    """
    folder = Path(folder)
    stored = read_config(folder).get("_class_name")
    if stored is not None and issubclass(model_class, ModelMixin) and stored != model_class.__name__:
        raise _misfit(model_class, folder, f"its config.json says {stored}. This is another kind of prior")
    state = load_int8(folder)
    if state is not None:
        # nn.Module's own cast: that of diffusers warns of modules to keep in float32, of which there are none.
        return nn.Module.to(_load_int8_strict(model_class, folder, state), dtype)
    variant, files = weight_files(folder)
    for path in files:
        check_weight_file(path)
    try:
        model, info = model_class.from_pretrained(
            folder,
            torch_dtype=dtype,
            low_cpu_mem_usage=False,
            local_files_only=True,
            output_loading_info=True,
            variant=variant,
            use_safetensors=files[0].suffix == ".safetensors",
        )
    except OSError as error:  # such as a shard that the index names and that is not there
        raise UserError(f"The weights in {folder} cannot be read: {error}") from error
    except RuntimeError as error:  # diffusers does not list weights of another shape, it stops at them
        raise _misfit(model_class, folder, str(error)) from error
    wrong = {
        kind: sorted(info.get(kind, []), key=str) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    wrong["unexpected_keys"] = [key for key in wrong["unexpected_keys"] if not str(key).endswith("position_ids")]
    problems = [f"{len(keys)} {kind.replace('_', ' ')} (such as {keys[0]})" for kind, keys in wrong.items() if keys]
    if problems:
        raise _misfit(model_class, folder, ", ".join(problems))
    return model.eval()


def _load_int8_strict(model_class: type, folder: Path, state: dict[str, Tensor]) -> nn.Module:
    if issubclass(model_class, PreTrainedModel):
        model = without_position_ids(model_class(model_class.config_class.from_pretrained(folder)))
    else:
        model = model_class.from_config(model_class.load_config(folder))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(model_class, folder, str(error)) from error
    return model.eval()


def _misfit(model_class: type[nn.Module], folder: Path, reason: str) -> UserError:
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    more = f" (and {len(lines) - 3} more lines)" if len(lines) > 3 else ""
    return UserError(f"The weights in {folder} do not fit {model_class.__name__}: {' '.join(lines[:3])}{more}")


def save_network(
    network: nn.Module,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    max_shard_size: str = MAX_SHARD_SIZE,
    int8: bool = False,
) -> None:
    """Write what ``load_network`` reads: safetensors shards in ``dtype``, or one file in 8 bits (``int8_weights``).

    Only this project reads the latter.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network = copy.deepcopy(network)
    if isinstance(network, ModelMixin):
        network.register_to_config(_name_or_path="")  # not the path that it was loaded from
    if not int8:
        nn.Module.to(network, dtype).save_pretrained(folder, max_shard_size=max_shard_size)
        return
    if isinstance(network, PreTrainedModel):
        network.config.save_pretrained(folder)
    else:
        network.save_config(folder)
    save_int8(network.state_dict(), folder)


def without_position_ids(encoder: nn.Module) -> nn.Module:
    """Old releases of transformers keep the numbers 0, 1, 2, ... of the tokens among the weights: take them out."""
    for module in encoder.modules():
        numbers = dict(module.named_buffers(recurse=False)).get("position_ids")
        if numbers is not None:
            module.register_buffer("position_ids", numbers, persistent=False)
    return encoder


def load_codec(folder: str | Path, dtype: torch.dtype = torch.float32) -> AutoencoderKL | PixelUnshuffleCodec:
    """The image codec of a prior: an autoencoder, or the lossless codec of a prior on pixels."""
    config = read_config(folder)
    if config.get("_class_name") == PixelUnshuffleCodec.__name__:
        return PixelUnshuffleCodec.from_config(config)
    return load_network(AutoencoderKL, folder, dtype)


def save_codec(
    codec: AutoencoderKL | PixelUnshuffleCodec,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    max_shard_size: str = MAX_SHARD_SIZE,
) -> None:
    """Write what ``load_codec`` reads."""
    if isinstance(codec, PixelUnshuffleCodec):
        codec.save_config(folder)
    else:
        save_network(codec, folder, dtype, max_shard_size)
