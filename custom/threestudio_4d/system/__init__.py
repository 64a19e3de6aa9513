"""One file for each published system: its losses, its schedule and its stages.

``consistent4d`` registers ``consistent4d-system``; ``losses`` holds the terms of its objective, ``objective`` weighs
them by name, and ``pictures`` turns renders into files to look at and to measure.
"""

from . import consistent4d  # noqa: F401
