"""What a run leaves: frames to measure, videos and sheets to look at (``pictures``), assets for other programs
(``export/``).
"""
