"""A second score on top of a frozen Stable Diffusion: LoRA weights, and an embedding of the camera.

Variational score distillation (Wang et al., NeurIPS 2023, "ProlificDreamer") learns the distribution of the renders
beside optimising them. Its network is the pretrained UNet with low-rank weights (LoRA, Hu et al. 2022) on the
projections of every attention, and an MLP that adds the camera to the embedding of the timestep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from ...errors import UserError
from .model import StableDiffusionModel

CAMERA_DIM = 16
ADAPTER = "vsd"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


class CameraLora(nn.Module):
    """The trainable part, and the calls of the UNet with it.

    Its parameters and its state are the LoRA weights and the camera's MLP, in single precision whatever the UNet's
    precision is; the UNet that they act on is no submodule. A and B of the LoRA start as N(0, 1 / rank) and 0, and the
    last layer of the MLP as 0: at first the second score equals the first.

    Args:
        model: frozen; its UNet gets the adapters and the embedding.
        rank, alpha: of the LoRA; its weights act with a factor alpha / rank.
        checkpointing: recompute the UNet's activations in the backward pass.

    Raises:
        UserError: the UNet has a class embedding of its own.
    """

    def __init__(self, model: StableDiffusionModel, rank: int = 4, alpha: int = 4, checkpointing: bool = False) -> None:
        super().__init__()
        from peft import LoraConfig  # imported here: it takes seconds, and only VSD needs it
        from peft.tuners.tuners_utils import BaseTunerLayer

        unet = model.unet
        if unet.class_embedding is not None:
            raise UserError("VSD adds an embedding of the camera to a UNet without class embedding; this one has one")
        object.__setattr__(self, "model", model)  # not registered: frozen, and no part of checkpoints
        config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(TARGETS))
        unet.add_adapter(config, ADAPTER)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        self.camera = TimestepEmbedding(CAMERA_DIM, unet.time_embedding.linear_2.out_features)
        nn.init.zeros_(self.camera.linear_2.weight)
        nn.init.zeros_(self.camera.linear_2.bias)
        self.camera.to(unet.device)
        weights = {name: parameter for name, parameter in unet.named_parameters() if f".{ADAPTER}." in name}
        for parameter in weights.values():
            parameter.data = parameter.data.float()
        # The dictionary holds the UNet's own parameters; names of parameters may not contain dots.
        self.weights = nn.ParameterDict({name.replace(".", "/"): parameter for name, parameter in weights.items()})
        self._layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
        unet.class_embedding = self.camera

    @contextmanager
    def taken_off(self) -> Iterator[None]:
        """Inside, the UNet is the pretrained one. Outside the adapters are on, as the backward pass needs them."""
        unet = self.model.unet
        unet.class_embedding = None
        for layer in self._layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            unet.class_embedding = self.camera
            for layer in self._layers:
                layer.enable_adapters(True)

    def denoise(self, noisy: Tensor, t: Tensor, text: Tensor, camera: Tensor) -> Tensor:
        """Raw output [B, C, h, w] of the adapted network, in single precision; cameras are [B, 16]."""
        unet = self.model.unet
        dtype = unet.dtype
        output = unet(noisy.to(dtype), t, text.to(dtype), class_labels=camera.float(), return_dict=False)[0]
        return output.float()

    def predict(
        self, noisy: Tensor, t: Tensor, text: Tensor, camera: Tensor, guidance_scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Predicted noise and clean latents of the adapted network, [B, C, h, w] each.

        With a ``guidance_scale`` other than 1 it is guided by the camera: the other pass has the same text and a camera
        of zeros.
        """
        output = self.denoise(noisy, t, text, camera)
        if guidance_scale != 1:
            without = self.denoise(noisy, t, text, torch.zeros_like(camera))
            output = without + guidance_scale * (output - without)
        return self.model.to_epsilon_and_x0(output, noisy, t)
