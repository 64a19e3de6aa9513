"""Score distillation: what diffusion models say of renders, as losses.

``score_distillation`` holds the mathematics as pure functions, ``base`` what all guidances share; then one file a
prior, each of which registers its guidance. ``text_prompts`` registers ``text-prompt-processor``. The models themselves
are in :mod:`threestudio_4d.diffusion`.
"""

from . import (  # noqa: F401
    mvdream_guidance,
    sd_guidance,
    svd_guidance,
    t2v_guidance,
    text_prompts,
    vsd_guidance,
    zero123_guidance,
)
