"""Fixtures of the launcher's tests."""

from conftest_launch import launch, trained, trained_copy, workdir  # noqa: F401
