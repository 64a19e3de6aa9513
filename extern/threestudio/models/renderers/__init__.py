"""Renderers: interfaces only; extensions bring the renderers."""
