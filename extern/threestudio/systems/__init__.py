"""Systems: what is trained, and how. ``base`` has the Lightning module every system derives from."""
