"""Statements of the papers as checks: each identity is a function that returns a residual."""

from iclens.identities.checks import IDENTITIES, Check, Identity, Setting, check_all, identity
from iclens.identities.own_attention import CaptureCheck, check_capture

__all__ = ["IDENTITIES", "CaptureCheck", "Check", "Identity", "Setting", "check_all", "check_capture", "identity"]
