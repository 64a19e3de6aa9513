"""LGM as a prior: four pictures with their cameras become Gaussians in the project's world."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from threestudio.utils.typing import Float, Tensor

from ...cameras.sphere import camera_rays
from ...errors import UserError
from ...geometry.gaussians import Gaussians
from .unet import AsymmetricUNet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHANNELS = 14  # of a Gaussian: position 3, opacity 1, scale 3, quaternion 4, colour 3
TO_Y_UP = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))  # (x, y, z) -> (y, z, x)


class LGMModel(ModelMixin, ConfigMixin):
    """The network, with one Gaussian for each pixel of its output.

    The defaults are those of the published large model.

    Args:
        image_size: S, pixels a side of the pictures.
        down_channels, down_attention, mid_attention, up_channels, up_attention, layers_per_block, attention_heads:
            of the U-Net, see ``AsymmetricUNet``.
        views: V.
        y_up_distance: of the published model's cameras from the origin, in its world with y up. Cameras are brought
            there, and the Gaussians back. None: the network works in the project's world.
        anchored: positions are offsets from the point of the pixel's ray that is nearest to the origin. Otherwise they
            are offsets from the origin, as published.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        down_channels: Sequence[int] = (64, 128, 256, 512, 1024, 1024),
        down_attention: Sequence[bool] = (False, False, False, True, True, True),
        mid_attention: bool = True,
        up_channels: Sequence[int] = (1024, 1024, 512, 256, 128),
        up_attention: Sequence[bool] = (True, True, True, False, False),
        layers_per_block: int = 2,
        attention_heads: int = 16,
        views: int = 4,
        y_up_distance: float | None = 1.5,
        anchored: bool = False,
    ) -> None:
        super().__init__()
        self.unet = AsymmetricUNet(
            9, CHANNELS, down_channels, down_attention, mid_attention, up_channels, up_attention, layers_per_block,
            attention_heads, views,
        )  # fmt: skip
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.image_size, self.views = image_size, views
        self.splat_size = image_size * 2 ** (len(up_channels) - 1) // 2 ** (len(down_channels) - 1)
        self.y_up_distance, self.anchored = y_up_distance, anchored

    def gaussians(
        self,
        pictures: Float[Tensor, "B V 3 S S"],
        c2w: Float[Tensor, "B V 4 4"],
        fovy: Float[Tensor, "B V"],
        present: Float[Tensor, "B V"] | None = None,
    ) -> Gaussians:
        """Gaussians [B, V s s] in the world of the cameras.

        Args:
            pictures: in [0, 1] on white; resized where they are of another size.
            c2w: OpenGL camera poses; views stand around the object, a quarter turn apart.
            fovy: in radians.
            present: 0 for a view that is not known, whose picture is then ignored. Published weights know no such.

        Raises:
            UserError: the number of views is not the network's.
        """
        if pictures.shape[1] != self.views:
            raise UserError(f"this LGM takes {self.views} views, got {pictures.shape[1]}")
        if self.y_up_distance is None:
            return self(self.inputs(pictures, c2w, fovy, present))
        turn = c2w.new_tensor(TO_Y_UP)
        scale = self.y_up_distance / c2w[:, :1, :3, 3].norm(dim=-1)  # [B, 1]
        moved = c2w.clone()
        moved[..., :3, :] = turn @ c2w[..., :3, :]
        moved[..., :3, 3] *= scale[..., None]
        return self(self.inputs(pictures, moved, fovy, present)).turned(turn.T, 1 / scale[..., None])

    def inputs(
        self,
        pictures: Float[Tensor, "B V 3 H W"],
        c2w: Float[Tensor, "B V 4 4"],
        fovy: Float[Tensor, "B V"],
        present: Float[Tensor, "B V"] | None = None,
    ) -> Float[Tensor, "B V 9 S S"]:
        """What the network takes: normalised colours, and the Plücker coordinates (o x d, d) of each pixel's ray."""
        batch, size = pictures.shape[:2], self.image_size
        pictures = pictures.flatten(0, 1)
        if pictures.shape[-2:] != (size, size):
            pictures = F.interpolate(pictures, (size, size), mode="bilinear", antialias=True)
        mean, std = (pictures.new_tensor(value).view(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        colours = (pictures - mean) / std
        if present is not None:
            colours = colours * present.flatten().view(-1, 1, 1, 1)
        origins, directions = camera_rays(c2w.flatten(0, 1), fovy.flatten(), size, size)
        rays = torch.cat([torch.linalg.cross(origins, directions), directions], -1).permute(0, 3, 1, 2)
        return torch.cat([colours, rays.to(colours)], 1).unflatten(0, batch)

    def forward(self, inputs: Float[Tensor, "B V 9 S S"]) -> Gaussians:
        """Gaussians [B, V s s] in the network's world; view by view, rows of pixels from the top."""
        batch, flat = inputs.shape[:2], inputs.flatten(0, 1)
        raw = self.unet(flat.to(self.unet.conv_in.weight.dtype))
        with torch.autocast(raw.device.type, enabled=False):
            raw = self.conv(raw).float()
        position = raw[:, :3]
        if self.anchored:
            moments, directions = F.adaptive_avg_pool2d(flat[:, 3:].float(), self.splat_size).split(3, 1)
            position = position + torch.linalg.cross(directions, moments, dim=1)

        def listed(values: Tensor) -> Tensor:
            return values.unflatten(0, batch).permute(0, 1, 3, 4, 2).flatten(1, 3)  # [B, V s s, C]

        return Gaussians.with_colours(
            means=listed(position.clamp(-1, 1)),
            opacities=listed(raw[:, 3:4].sigmoid())[..., 0],
            scales=listed(0.1 * F.softplus(raw[:, 4:7])),
            quats=F.normalize(listed(raw[:, 7:11]), dim=-1),
            colours=listed(0.5 * torch.tanh(raw[:, 11:]) + 0.5),
        )
