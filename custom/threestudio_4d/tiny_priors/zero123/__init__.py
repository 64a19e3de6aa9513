"""``zero123-tiny``: another view of a picture."""
