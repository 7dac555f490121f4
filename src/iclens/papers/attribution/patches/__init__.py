"""The context as weight updates of a real model: are they exact, and do their parts rank demonstrations?"""

__all__: list[str] = []
