"""Geometry, materials, backgrounds, renderers, exporters, prompt processors and networks."""
