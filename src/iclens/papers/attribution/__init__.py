"""Which demonstrations matter: attribution methods checked against a known truth."""

__all__: list[str] = []
