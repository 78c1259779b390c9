"""The one error that a user is meant to read."""


class MetadeblurError(Exception):
    """Something the user can put right: says what was wrong, with the value, what is allowed and what to do next.

    The command line prints it as one line and exits with code 1; nothing half-written is left behind.
    """


class UsageError(MetadeblurError):
    """The command line itself makes no sense; exit code 2."""
