"""Which score is right on real language models: on the rivals' own measures, by really deleting text."""

__all__: list[str] = []
