"""How the small built-in priors are made: assets, a batch rasteriser, training pairs and a creature.

``gltf`` reads GLB files, ``assets`` packs them into one small file, ``scenes`` skins a pack into flat buffers,
``rasterise`` renders batches of them (Triton on CUDA, numba on CPU), ``pairs`` samples novel-view training pairs,
``creature`` makes the demo clip. Nothing here registers with threestudio, so the extension does not import it.
"""
