"""Training batches, drawn on the device and without waiting for it: ``pairs`` for novel views, ``view_sampler`` for
pictures and sets of views, ``clip_sampler`` for clips; ``jitter`` varies shapes and palettes, ``view_words`` and
``sentence_table`` say in words what is seen.
"""
