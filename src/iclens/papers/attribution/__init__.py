"""Which demonstrations matter: attribution methods held against a known truth."""

__all__: list[str] = []
