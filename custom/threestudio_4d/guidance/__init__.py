"""Diffusion guidance: priors, the score-distillation mathematics that they share, and frame interpolation.

``score_distillation`` holds the mathematics as pure functions, ``prior_weights`` the one place that finds the weights
of any model, ``zero123_model`` and ``zero123_ckpt`` the networks of Zero123 and their original checkpoint layout,
``zero123_guidance`` the registered ``zero123-guidance-t``, ``interpolation`` RIFE and the consistency loss built on it.
"""

from . import interpolation, sd_guidance, text_prompts, zero123_guidance  # noqa: F401
