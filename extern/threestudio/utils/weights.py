"""Reading checkpoints without running what a pickle asks for.

A file is opened with ``weights_only=True`` first. A Lightning checkpoint whose optimizer state drags config objects
along (old threestudio runs) is then read by an unpickler that knows only tensors and plain containers and puts inert
placeholders everywhere else.
"""

import os
import pickle
import types
import zipfile
import zlib
from typing import Any

import torch

from threestudio.utils.errors import CheckpointError

__all__ = ["read_checkpoint"]


class _Inert:
    """Stands for an object of a class that is not allowed; takes part in unpickling and does nothing."""

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __call__(self, *args, **kwargs) -> "_Inert":
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


_ALLOWED = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("builtins", "set"),
    ("builtins", "dict"),
    ("builtins", "list"),
    ("builtins", "tuple"),
    ("builtins", "int"),
    ("builtins", "float"),
    ("builtins", "bool"),
    ("builtins", "str"),
    ("builtins", "bytearray"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


class _TolerantUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "__builtin__":
            module = "builtins"
        is_torch_type = module == "torch" and (
            name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)
        )
        if (module, name) in _ALLOWED or is_torch_type:
            return super().find_class(module, name)
        return _Inert


def _tolerant_pickle() -> types.ModuleType:
    module = types.ModuleType("tolerant_pickle")
    module.Unpickler = _TolerantUnpickler
    module.load = lambda file, **kwargs: _TolerantUnpickler(file, **kwargs).load()
    return module


def read_checkpoint(path: str, map_location: Any = None) -> dict[str, Any]:
    """``{"state_dict", "epoch", "global_step", "rest"}`` of a checkpoint file.

    Args:
        path: Lightning ``.ckpt``, a saved state dict, or ``.safetensors``.
        map_location: as for ``torch.load``.

    Returns:
        ``state_dict`` maps names to tensors; ``epoch`` and ``global_step`` are 0 where the file has none; ``rest`` has
        the other entries of the file.

    Raises:
        CheckpointError: no such file, not a checkpoint, damaged, or a pickle that holds more than tensors.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"The checkpoint '{path}' does not exist.")
    if str(path).endswith(".safetensors"):
        content: Any = _read_safetensors(path, map_location)
    else:
        content = _read_torch(path, map_location)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"'{path}' is not a checkpoint: it holds a {type(content).__name__} instead of a state dict."
        )
    state_dict = content.get("state_dict", content)
    if not isinstance(state_dict, dict):
        raise CheckpointError(f"'{path}' is not a checkpoint: its 'state_dict' is a {type(state_dict).__name__}.")
    state_dict = {k: v for k, v in state_dict.items() if isinstance(v, torch.Tensor)}
    if not state_dict:
        raise CheckpointError(f"'{path}' holds no weights.")
    wrapped = "state_dict" in content
    return {
        "state_dict": state_dict,
        "epoch": content.get("epoch", 0) if wrapped else 0,
        "global_step": content.get("global_step", 0) if wrapped else 0,
        "rest": {k: v for k, v in content.items() if k not in ("state_dict", "epoch", "global_step")}
        if wrapped
        else {},
    }


def _read_safetensors(path: str, map_location: Any) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"'{path}' is not a valid safetensors file: {error}.") from error
    return {k: v.to(map_location) for k, v in tensors.items()} if map_location is not None else tensors


def check_archive(path: str) -> None:
    """Raise a ``CheckpointError`` if a part of the zip archive that ``torch.save`` wrote does not have its checksum.

    PyTorch does not look at the checksums itself. Reading all once more takes about half as long as loading does: 1 to
    2 seconds a gigabyte on a CPU core. Files of PyTorch before 1.6 and ``.safetensors`` have no checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"The checkpoint '{path}' is damaged: {error}. Use another one.") from error
    if damaged is not None:
        raise CheckpointError(
            f"The checkpoint '{path}' is damaged: the checksum of its part '{damaged}' is wrong, so it would load as "
            "other values. Use another one."
        )


def _read_torch(path: str, map_location: Any) -> Any:
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"  # as PyTorch decides it
    if is_archive:
        check_archive(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_archive:
            raise CheckpointError(
                f"'{path}' is not a checkpoint that can be opened safely (a plain pickle, or a damaged file). "
                "Convert it to .safetensors with the tool that wrote it."
            ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"The checkpoint '{path}' is damaged or incomplete: {reason}") from error
    try:
        return torch.load(path, map_location=map_location, weights_only=False, pickle_module=_tolerant_pickle())
    except Exception as error:  # whatever a hostile or damaged pickle provokes
        raise CheckpointError(f"The checkpoint '{path}' cannot be read: {type(error).__name__}: {error}") from error
