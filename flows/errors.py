"""What is the caller's to mend: exit code 2 and one line."""

import sys


class UsageError(ValueError):
    """A command, an option, the configuration or the workspace cannot be used as given."""


def bad_input() -> tuple[type[Exception], ...]:
    """All errors of that kind. They are imported when one is at hand: the command line's help stays fast."""
    from data import InputError
    from detectors import CalibrationError

    core = sys.modules.get("vae_core")
    return (UsageError, InputError, CalibrationError, *((core.BundleError,) if core else ()))
