"""A choice in the words of other frameworks, one a file; each needs its own package, and none is imported before."""

__all__: list[str] = []
