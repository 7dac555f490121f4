"""Demonstrations as a small change of weights, on real models and public data."""

__all__: list[str] = []
