"""Cameras around an object: where they stand and look, their rays, and how they are drawn (``sphere``)."""
