"""LGM, the Large Multi-View Gaussian Model (Tang et al., ECCV 2024): four views in, 3D Gaussians out, in one pass.

``unet`` is the asymmetric network, ``model`` adds cameras and Gaussians to it, ``checkpoint`` reads published weights.
"""
