"""How the small built-in priors are made: from folders of assets to captioned pictures and clips, and the trainings.

* Assets: ``gltf`` reads GLB files, ``assets`` packs them into one small file, ``scenes`` skins packs into flat buffers;
  ``creature`` and ``bestiary`` make animated creatures by code. ``captions`` (words in ``caption_words``) says what an
  asset is and does.
* Rendering: ``rasterise`` draws batches of poses (``rasterise_triton`` on CUDA, ``rasterise_numba`` on CPU).
* Sampling, on the device and without waiting for it: ``pairs`` for novel views, ``view_sampler`` for pictures and sets
  of views, ``clip_sampler`` for clips; ``looks`` varies light and colour, ``jitter`` shapes and palettes.
* ``training`` is the loop of all priors. Each has ``<name>_networks``, ``train_<name>``, ``<name>_evaluation`` and
  ``<name>_sheet``.
* ``make_benchmark`` writes clips with ground truth from other views, ``data_sheet`` a picture of a pack.

Nothing here registers with threestudio, so the extension does not import it.
"""
