"""Clips and cameras in space and time.

``frame_sources`` opens folders, animated pictures (``picture_file``) and videos (``video_source``, ``video_color``);
``frame_choice`` says which frames make a clip; ``keying`` makes alpha for clips without; ``clip``
checks and resizes; ``cameras`` holds cameras and rays; ``view_time`` draws which views at which times a step sees;
``eval_views`` lists the fixed views of validation and test; ``image_sequence`` registers ``image-seq-datamodule``,
which puts them together.
"""

from . import image_sequence  # noqa: F401
