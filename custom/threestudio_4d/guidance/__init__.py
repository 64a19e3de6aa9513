"""Diffusion guidance: priors, the score-distillation mathematics that they share, and frame interpolation.

``score_distillation`` holds the mathematics as pure functions, ``prior_weights`` the one place that finds the weights
of any model, ``zero123_model`` and ``zero123_ckpt`` the networks of Zero123 and their original checkpoint layout,
``zero123_guidance`` the registered ``zero123-guidance-t``, ``interpolation`` RIFE and the consistency loss built on it.
``mvdream_model``, ``mvdream_ckpt`` and ``mvdream_guidance`` are the same for MVDream, ``vsd_guidance`` adds variational
score distillation to Stable Diffusion; ``ldm_layout`` and ``ldm_checkpoint`` read what latent-diffusion code has saved.
"""

from . import (  # noqa: F401
    interpolation,
    mvdream_guidance,
    sd_guidance,
    svd_guidance,
    t2v_guidance,
    text_prompts,
    vsd_guidance,
    zero123_guidance,
)
