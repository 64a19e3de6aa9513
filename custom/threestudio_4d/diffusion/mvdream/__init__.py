"""MVDream (Shi et al., ICLR 2024): ``model``, original checkpoints (``checkpoint``), and ``convert``."""
