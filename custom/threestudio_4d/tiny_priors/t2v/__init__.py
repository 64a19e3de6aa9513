"""``t2v-tiny``: a clip of a sentence."""
