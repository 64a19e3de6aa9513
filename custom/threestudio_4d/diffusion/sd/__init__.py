"""Stable Diffusion (Rombach et al., CVPR 2022): ``model``, and ``camera_lora``, which VSD trains on it."""
