"""Zero-1-to-3 (Liu et al., ICCV 2023): ``model``, original checkpoints (``checkpoint``), and ``convert``."""
