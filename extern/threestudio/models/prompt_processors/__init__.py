"""Prompt processors: interface, caching and view-dependent prompts; extensions bring the text encoders."""
