"""Exporters: what ``--export`` writes."""
