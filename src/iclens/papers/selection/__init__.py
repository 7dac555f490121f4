"""Which demonstrations to keep, on real models and public data."""

__all__: list[str] = []
