"""Read the tensors of a checkpoint without ever running code that is stored in it.

A PyTorch checkpoint is a pickle, and a pickle is a program. Three readers, in this order:

1. ``.safetensors`` has no program in it.
2. ``torch.load(weights_only=True)`` accepts tensors and plain containers only.
3. Old Lightning checkpoints also hold callbacks, optimiser classes and the like, which (2) refuses. For these an
   unpickler of our own accepts the same few constructors of tensors and replaces *everything else* by an inert
   placeholder: no other class or function that the file names is imported, let alone called.

A pickle outside PyTorch's archive format is refused.
"""

from __future__ import annotations

import collections
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...versions import memory_mapping

_TENSOR_CONSTRUCTORS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}


class Placeholder(dict):
    """Stands for any object that is not a tensor. Accepts every way of building an object and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class TensorUnpickler(pickle.Unpickler):
    """An unpickler that knows tensors, primitives and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = _TENSOR_CONSTRUCTORS.get((module, name))
        if found is not None:
            return found
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return Placeholder


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Everything at the top level of a checkpoint file; tensors stay on disk until they are read (memory map).

    Raises:
        UserError: the file is not a checkpoint, is cut short, or could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is only a pointer to the real file: run 'git lfs pull' where it came from")
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path} is a web page, not a checkpoint: the download went wrong, fetch the file again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the error below says what matters
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is no checkpoint makes of torch.load
        raise UserError(
            f"{path} is not a checkpoint that can be read safely: it is neither safetensors nor a PyTorch archive. "
            "A plain pickle can run any program when it is loaded, so it is refused; get the original file, or "
            "convert it to safetensors"
        ) from error
    return _as_dict(content, path)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: those under ``state_dict`` if it has that key (Lightning), else at the top level."""
    content = read_checkpoint(path)
    state = content.get("state_dict", content)
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors; its keys are {', '.join(map(str, list(content)[:8]))}")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); fetch it again") from error


def _read_archive(path: Path) -> dict[str, Any]:
    try:
        return _as_dict(torch.load(path, map_location="cpu", weights_only=True, **memory_mapping()), path)
    except pickle.UnpicklingError:
        pass  # holds more than tensors: read what is safe of it
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short ({str(error).splitlines()[0]}); fetch it again") from error
    restricted = SimpleNamespace(__name__="restricted", Unpickler=TensorUnpickler, load=_refuse)
    # Not what weights_only=False usually stands for: TensorUnpickler looks up every name and runs no foreign code.
    content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=restricted, **memory_mapping())
    return _as_dict(content, path)


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise UserError("a checkpoint in PyTorch's old format is read with weights_only=True or not at all")


def _as_dict(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content
