"""Claims of related papers, one recipe a file."""

__all__: list[str] = []
