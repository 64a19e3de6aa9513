"""What systems minimise: terms as pure functions (``losses``, ``interpolation``), weighed by name (``weights``)."""
