"""The equivalence, the bound and the heads themselves, on real models and public data."""

__all__: list[str] = []
