"""A folder a paper: its tasks, models, closed forms, training, identities and recipes, each registered where it stands.

The entry point `iclens.papers` names this package, so that the house uses the door that third parties use.
"""

__all__: list[str] = []
