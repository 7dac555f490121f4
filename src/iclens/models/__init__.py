"""Transformers for prompts; every parameter has a leading axis of runs."""
