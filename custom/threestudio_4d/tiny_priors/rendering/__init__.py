"""Pictures of posed assets: ``scenes`` skins packs into flat buffers, ``rasterise`` draws batches of poses
(``rasterise_triton`` on CUDA, ``rasterise_numba`` on the CPU), ``looks`` varies light and colour, ``make_benchmark``
writes clips with ground truth from other views.
"""
