"""Guidance comes from extensions; the host has none of its own."""
