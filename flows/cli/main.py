"""The command line ``nelbo`` as a process: encoding, signals, exit codes, and one line for each error."""

import atexit
import gc
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from nelbo.flows.cli.invocation import app
from nelbo.flows.cli.output import log_to_stderr, one_line
from nelbo.flows.inference.signals import ending_on_sigterm, kept, leave_init
from nelbo.flows.workspace.home import provide_home

_AGAIN = " It is safe to run the same command again."

#: Exit code of a signal -> what it did.
_ENDED = {128 + signal.SIGINT: "interrupted", 128 + signal.SIGTERM: "told to end (SIGTERM)"}


def _use_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale has another encoding: file names and all output are UTF-8."""
    wanted = {"PYTHONUTF8": "1"}
    if sys.getfilesystemencoding() != "utf-8" and not wanted.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)  # noqa: S606 - ourselves


def main() -> None:
    """Run the command line: exit code 2 and one line for bad input, 1 for a failure midway."""
    _use_utf8()
    # Odd files are recorded in their rows; Pillow need not warn about each.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    with suppress(AttributeError):
        # The locale's encoding may lack a character of a file name.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    # At exit the interpreter would search millions of objects for garbage; the system frees all of them at once.
    atexit.register(gc.freeze)
    leave_init()
    with ending_on_sigterm():
        sys.exit(_exit_code())


def _exit_code() -> int:
    code: Any
    left = ""
    try:
        log_to_stderr()
        provide_home()
        _refuse_credentials(sys.argv[1:])
        code = app(standalone_mode=False)
    except click.ClickException as error:
        # Click's own usage and hint do not fit into one line of a log.
        code = _fail(2, f"{error.format_message()} See --help for what is possible.")
    except (click.Abort, KeyboardInterrupt) as end:
        code, left = 130, kept(end)
    except SystemExit as end:
        code, left = end.code, kept(end)
    except Exception as error:
        code = _fail_by(error)
    if code in _ENDED:
        _fail(
            code,
            f"{_ENDED[code]}; {left}. The same command goes on from there." if left else _ENDED[code] + f".{_AGAIN}",
        )
    return code if isinstance(code, int) else 0


def _fail_by(error: Exception) -> int:
    """Say in one line what went wrong; returns the exit code. Python's development mode raises unexpected errors."""
    from nelbo.data import SpaceError
    from nelbo.flows.workspace.errors import bad_input, store_errors

    if isinstance(error, bad_input()):
        return _fail(2, str(error))
    if isinstance(error, RecursionError):
        # A damaged file of brackets alone, in JSON or TOML.
        return _fail(1, f"something is nested too deeply to be read ({error}). Find a damaged file with: nelbo verify")
    if isinstance(error, (*store_errors(), FloatingPointError, RuntimeError)):
        # Running the command again does not help: numbers overflow again, and a full disk needs space first.
        said = isinstance(error, FloatingPointError | SpaceError)
        return _fail(1, f"{error}{'' if said else _AGAIN}")
    if sys.flags.dev_mode:
        raise error
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {error}, at line {place.lineno} of {Path(place.filename).name}"
    how = "Please report it; with PYTHONDEVMODE=1 in the environment the same command shows where it came from."
    return _fail(1, f"an unexpected error ({what}). {how}")


def _refuse_credentials(arguments: list[str]) -> None:
    """Refuse credentials before any message repeats an argument, stray ones included."""
    if any(":" in argument for argument in arguments):
        from nelbo.flows.options.credentials import refuse_credentials

        refuse_credentials(arguments)


def _fail(code: int, message: str) -> int:
    click.echo(f"nelbo: {one_line(message)}", err=True)
    return code
