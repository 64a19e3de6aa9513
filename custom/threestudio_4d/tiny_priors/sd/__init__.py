"""``sd-tiny``: a picture of a sentence."""
