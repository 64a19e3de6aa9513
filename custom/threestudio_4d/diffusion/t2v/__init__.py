"""ModelScope's and ZeroScope's text to video: ``model``, and its temporal layers (``temporal_convolution``,
``temporal_bypass``).
"""
