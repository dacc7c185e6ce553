"""Errors that the command line turns into exit code 2 and one line."""


class UsageError(ValueError):
    """A command, an option, the configuration or the workspace cannot be used as given."""
