"""Kernels for a GPU; nothing here is imported where it cannot run."""
