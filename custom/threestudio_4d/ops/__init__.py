"""Fast kernels, each beside the plain PyTorch reference that defines it.

``planes`` looks features up in six coordinate planes (K-planes, HexPlane): ``grid_sample`` is the specification,
``planes_numba`` the fused CPU kernel and ``planes_triton`` the fused CUDA kernel. Nothing here registers with
threestudio; geometry modules call these functions.
"""
