"""Backgrounds: colour of the rays that hit nothing."""
