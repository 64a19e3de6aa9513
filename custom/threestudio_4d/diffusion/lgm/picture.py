"""From one picture to the four views that LGM takes: the picture itself, and three that an image prior draws."""

from __future__ import annotations

import torch

from threestudio.utils.typing import Float, Tensor

from ..zero123.model import Zero123Model, camera_vector

TURNS = (0.0, 90.0, 180.0, 270.0)  # azimuths of LGM's views from the first one, in degrees


@torch.no_grad()
def sides_of_pictures(
    zero123: Zero123Model,
    pictures: Float[Tensor, "B 3 S S"],
    elevation: Float[Tensor, " B"],
    distance: Float[Tensor, " B"],
    generator: torch.Generator | None = None,
    steps: int | None = None,
) -> Float[Tensor, "B 4 3 S S"]:
    """Pictures, then the views a quarter, a half and three quarters of a turn farther, as Zero123 draws them.

    Args:
        zero123: draws the views.
        pictures: in [0, 1] on white, at the size of the prior.
        elevation: of the camera of each picture, degrees; the views have the same.
        distance: of the cameras.
        generator: of the noise that views start from.
        steps: of the sampler. None takes the mean of what the view may be, in one step from pure noise: blurred where
            one picture does not tell, and hardly dependent on the noise.
    """
    views, device = len(TURNS) - 1, pictures.device
    repeated = [value.repeat_interleave(views) for value in (elevation, distance)]
    azimuth = torch.tensor(TURNS[1:], device=device).repeat(len(pictures))
    zero = torch.zeros_like(azimuth)
    camera = camera_vector(repeated[0], azimuth, repeated[1], repeated[0], zero, repeated[1])
    condition = zero123.encode_condition(pictures)
    condition = condition[torch.arange(len(pictures), device=device).repeat_interleave(views)]
    if steps is None:
        noise_device = device if generator is None else generator.device
        noise = torch.randn((len(camera), *zero123.latent_shape), generator=generator, device=noise_device).to(device)
        t = torch.full((len(camera),), zero123.num_train_timesteps - 1, device=device)
        drawn = zero123.decode(zero123.predict(noise, t, condition, camera)[1])
    else:
        drawn = zero123.sample(condition, camera, steps, generator=generator)
    return torch.cat([pictures[:, None], drawn.to(pictures).unflatten(0, (-1, views))], 1)
