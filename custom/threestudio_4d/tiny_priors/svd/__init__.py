"""``svd-tiny``: a picture set in motion."""
