"""Start a training from the UNet of a prior, its own kind or the simpler kind that it is built on."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...diffusion.weights.network_folder import load_network, part_folder
from ...errors import UserError


def start_unet_from(unet: nn.Module, folder: str | Path, source_class: type[nn.Module], new: str = "") -> None:
    """Copy the weights of the UNet in a prior's folder.

    Args:
        unet: receives them.
        folder: of a prior in diffusers layout.
        source_class: of the UNet there.
        new: beginning of the names of weights that the source may lack, which then stay as they are.

    Raises:
        UserError: the two do not have the same weights otherwise.
    """
    state = load_network(source_class, part_folder(folder, "unet")).state_dict()
    own = unet.state_dict()
    fresh = {name for name in own if new and name.startswith(new)}
    missing, unknown = sorted(own.keys() - state.keys() - fresh), sorted(state.keys() - own.keys())
    other_shape = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    for what, names in (("lacks", missing), ("has more than fits:", unknown), ("has another shape of", other_shape)):
        if names:
            raise UserError(
                f"the prior in {folder} cannot be started from: its UNet {what} {names[0]} ({len(names)} weights). "
                "Both must have the same --channels"
            )
    unet.load_state_dict({**own, **state})
