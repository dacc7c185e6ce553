"""Where options come from: a TOML file, the environment, ``--set`` and the command line; unknown keys are refused."""

import codecs
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from nelbo.flows.options.credentials import refuse_credentials
from nelbo.flows.options.former import FORMER
from nelbo.flows.options.options import Options
from nelbo.flows.options.settings import AllSettings
from nelbo.flows.workspace.errors import UsageError

ENV_PREFIX = "NELBO_"

#: The dashboard's password: it is a secret, and therefore comes from the environment alone and is not a setting.
PASSWORD = "NELBO_DASHBOARD_PASSWORD"  # noqa: S105 - its name


class Settings(Options, AllSettings):
    """Everything that a configuration file, the environment or ``--set`` may set."""


#: Settings that are gone are accepted, too.
_KNOWN = {*Settings.model_fields, *FORMER}

AnyOptions = TypeVar("AnyOptions", bound=Options)


def make_options(
    kind: type[AnyOptions],
    given: Mapping[str, Any],
    config: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, str] = MappingProxyType({}),
) -> AnyOptions:
    """Options of one command: file < environment < ``--set`` < command line; the later one wins.

    Args:
        kind: the options model of the command.
        given: options given on the command line; None means not given.
        config: a TOML file, or None.
        assignments: texts "key=value".
        flags: names of given options in errors; by default as in Python.

    Raises:
        UsageError: an unknown key or a bad value. Environment variables that are not settings are ignored, because
            other programs set such variables, too.
    """
    given = {key: value for key, value in given.items() if value is not None}
    refuse_credentials([*assignments, given])
    said = dict(_assignment(text) for text in assignments)
    content = {} if config is None else _read_toml(config)
    variables = {name: variable for variable in os.environ if (name := setting_of(variable))}
    environment = {name: os.environ[variable] for name, variable in variables.items()}
    called = variables | {key: key for key in said}
    settings = check_options(Settings, content | environment | said, called)
    common = {key: getattr(settings, key) for key in settings.model_fields_set & set(kind.model_fields)}
    # One command, `upgrade`, works on the file itself.
    common |= {"config": str(config)} if config is not None and "config" in kind.model_fields else {}
    return check_options(kind, common | given, called | {key: flags.get(key, key) for key in given})


def check_options(
    kind: type[AnyOptions], values: Mapping[str, Any], called: Mapping[str, str] = MappingProxyType({})
) -> AnyOptions:
    """The options model made of `values`, or a UsageError about the first bad one, with its name from `called`."""
    try:
        return kind(**values)
    except ValidationError as error:
        # `from None`: pydantic's error repeats the values.
        raise UsageError(_message(error, called)) from None


def setting_of(variable: str) -> str | None:
    """The setting that an environment variable sets, in upper or lower case; None if it sets none.

    >>> setting_of("NELBO_FPR"), setting_of("NELBO_PORT")
    ('fpr', None)
    """
    prefix, name = variable[: len(ENV_PREFIX)].upper(), variable[len(ENV_PREFIX) :].lower()
    return name if prefix == ENV_PREFIX and name in _KNOWN else None


def strange_variables() -> list[str]:
    """Environment variables that begin like settings but are none: Kubernetes sets some for a Service named nelbo."""
    ours = (name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name != PASSWORD)
    return sorted(name for name in ours if setting_of(name) is None)


def _read_toml(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise UsageError(f"--config {config}: no such file. Give a TOML file, or leave it out.")
    try:
        content = config.read_bytes()
        # Windows calls this encoding "Unicode".
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
            raise UsageError(f"--config {config} is UTF-16, and TOML is UTF-8. Save it as UTF-8.")
        return tomllib.loads(content.decode("utf-8-sig"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"--config {config} is not readable TOML ({error}). Mend it, or leave it out.") from error


def _message(error: ValidationError, called: Mapping[str, str]) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(name)
    ours = first.get("ctx", {}).get("error")
    message = str(ours) if isinstance(ours, UsageError) else f"{name}={first['input']!r}: {first['msg']}."
    name = re.split(r"\W", message, maxsplit=1)[0]
    return called.get(name, name) + message.removeprefix(name)


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UsageError(f"--set {text}: expected key=value, for example --set epochs=50.")
    if key not in _KNOWN:
        raise UsageError(f"--set: {_unknown(key)}")
    return key, value


def _unknown(key: str) -> str:
    close = get_close_matches(key, Settings.model_fields)
    perhaps = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"unknown key {key!r}.{perhaps} Known keys: {', '.join(sorted(Settings.model_fields))}."
