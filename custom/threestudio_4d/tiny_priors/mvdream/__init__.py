"""``mvdream-tiny``: four views of a sentence."""
