"""Weights of any model: found (``resolve``), read safely (``safe_checkpoint``, ``files``), checked against networks.

``network_folder`` reads folders in diffusers' layout, ``int8`` the 8-bit files of built-in priors, ``ldm_checkpoint``
and ``ldm_layout`` what latent-diffusion code has saved.
"""
