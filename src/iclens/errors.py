"""The one exception that a user's mistake raises."""


class UserError(ValueError):
    """Bad input: the message says what was wrong, where, and what would be right.

    The command line prints the message alone and exits with status 2; a library caller catches it
    as a `ValueError`.
    """
