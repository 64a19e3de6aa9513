"""One file for each published system: its schedule and its steps, over the terms of ``objective/``.

``consistent4d`` registers ``consistent4d-system``; ``last_checkpoint`` keeps one ``last.ckpt`` under any launcher.
"""

from . import consistent4d  # noqa: F401
