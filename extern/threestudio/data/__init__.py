"""Data modules of the host: cameras sampled at random around the origin."""
