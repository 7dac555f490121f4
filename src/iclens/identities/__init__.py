"""Statements of the papers as checks: each identity is a function that returns a residual."""

from iclens.identities.checks import IDENTITIES, Check, Identity, Setting, check_all, identity

__all__ = ["IDENTITIES", "Check", "Identity", "Setting", "check_all", "identity"]
