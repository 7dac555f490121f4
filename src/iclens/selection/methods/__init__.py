"""Ways to choose demonstrations, one a file, found by its decorator: a function of a `Search`."""

__all__: list[str] = []
