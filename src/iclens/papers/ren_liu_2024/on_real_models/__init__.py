"""Modified attention in a real language model that learns in context."""

__all__: list[str] = []
