"""``lgm-tiny``: 3D Gaussians of a picture, or of four views."""
