"""Helpers that every part of the host shares: configuration, base classes, saving, camera and tensor operations."""
