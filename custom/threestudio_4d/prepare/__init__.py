"""Input preparation: ``python -m threestudio_4d.prepare INPUT OUT`` makes a clean RGBA clip of a video or of pictures.

``pipeline`` holds the steps in their order; ``choice`` takes frames; ``background`` and ``networks`` find the object,
``masks`` and ``edges`` clean what they found; ``interpolate`` draws frames between; ``sheet`` makes the pictures to
judge by; ``folder`` writes all or nothing. Reading and framing are those of :mod:`threestudio_4d.data`.
"""
