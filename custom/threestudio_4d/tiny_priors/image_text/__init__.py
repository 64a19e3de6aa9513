"""``clip-tiny``: pictures and sentences as vectors of one space (Radford et al., ICML 2021)."""
