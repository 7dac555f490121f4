"""Which parts of a context a whole response rests on, on a real model and by ContextCite's own measures."""

__all__: list[str] = []
