"""Stable Video Diffusion (Blattmann et al., 2023): ``model``, and its noise levels (``edm``)."""
