"""Geometry: what is optimised. ``base`` has the interfaces, ``implicit_volume`` a density field on plain PyTorch."""
