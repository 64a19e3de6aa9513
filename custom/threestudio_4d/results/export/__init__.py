"""Assets that other programs open. ``mesh_sequence`` registers ``mesh-sequence-exporter``: one mesh for each frame."""

from . import mesh_sequence  # noqa: F401
