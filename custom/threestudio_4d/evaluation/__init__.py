"""Measures of results against ground truth: novel views of a clip, frame by frame and over time."""
