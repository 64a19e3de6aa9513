"""Fill networks from the tensors of an original latent-diffusion checkpoint, strictly.

Networks are built without storage and filled tensor by tensor, and nothing may be left over: a missing tensor, one of
the wrong shape, or an unknown one under a network's prefix is an error that names it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import torch
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

from ...errors import UserError
from . import ldm_layout as layout
from .ldm_layout import Source

logger = logging.getLogger(__name__)


def manifest_of(network: nn.Module, sources: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every tensor of the original layout that ``network`` takes, given the sources of its own."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    return {source.key: layout.original_shape(shapes[key], source.operation) for key, source in sources.items()}


def fill_network(
    network: nn.Module,
    state: Mapping[str, Tensor],
    sources: Mapping[str, Source],
    *,
    kind: str,
    name: str,
    prefixes: tuple[str, ...],
    spare: Collection[str] = (),
    ignored: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Give every tensor of ``network`` its value from ``state`` and freeze it.

    Args:
        network: may stand on the meta device.
        state: the tensors of a checkpoint by their original keys.
        sources: for every tensor of ``network``, where it comes from.
        kind, name: what messages call the model and the file.
        prefixes: keys that begin so belong to ``network``: one that it has no place for is an error.
        spare: keys that are known and not needed.
        ignored: keys that begin so are passed over in silence; any other unknown key is remarked upon.
        dtype, device: of the tensors afterwards.

    Raises:
        UserError: a tensor is missing, has another shape, or is unknown.
    """
    manifest = manifest_of(network, sources)
    missing = [key for key in manifest if key not in state]
    if missing:
        raise UserError(
            f"{name} is not a complete {kind} checkpoint: {len(missing)} of {len(manifest)} tensors are missing, "
            f"such as {', '.join(missing[:3])}"
        )
    misfits = [key for key, shape in manifest.items() if tuple(state[key].shape) != shape]
    if misfits:
        key = misfits[0]
        raise UserError(
            f"{name} is a checkpoint of another architecture: {len(misfits)} tensors have other shapes, such as {key} "
            f"with {tuple(state[key].shape)} instead of {manifest[key]}"
        )
    left = [key for key in state if key not in manifest and key not in spare and key not in layout.NOT_NETWORKS]
    unknown = [key for key in left if key.startswith(prefixes)]
    if unknown:
        raise UserError(
            f"{name} is a checkpoint of another architecture: {len(unknown)} tensors have no place in a {kind}, "
            f"such as {', '.join(unknown[:3])}"
        )
    other = [key for key in left if not key.startswith(ignored)] if ignored else left
    if other:
        logger.warning("ignored %d tensors of %s that belong to no network, such as %s", len(other), name, other[0])
    if set(sources) != set(network.state_dict()):
        raise ValueError("sources must name every tensor of the network")
    for key, source in sources.items():
        value = layout.apply(state[source.key], source.operation).to(device=device, dtype=dtype, copy=True).contiguous()
        set_module_tensor_to_device(network, key, device, value=value, dtype=dtype)
    network.requires_grad_(False)


def check_schedule(alphas_cumprod: Tensor, state: Mapping[str, Tensor], kind: str, name: str) -> None:
    """Compare the noise schedule stored in a checkpoint, if there is one, with ours, [T].

    Raises:
        UserError: they differ.
    """
    stored = state.get("alphas_cumprod")
    if stored is None:
        return
    ours = alphas_cumprod.cpu()
    if stored.shape != ours.shape or not torch.allclose(stored.float().cpu(), ours, atol=1e-4):
        raise UserError(f"{name} was trained with another noise schedule than {kind}'s; it cannot be used as one")
