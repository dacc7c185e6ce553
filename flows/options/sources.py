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

#: The dashboard's password: a secret, so it is in the environment alone and no setting.
PASSWORD = "NELBO_DASHBOARD_PASSWORD"  # noqa: S105 - its name


class Settings(Options, AllSettings):
    """All that a configuration file, the environment or ``--set`` may say."""


#: Those that are gone are accepted, too.
_KNOWN = {*Settings.model_fields, *FORMER}

AnyOptions = TypeVar("AnyOptions", bound=Options)


def make_options(
    kind: type[AnyOptions],
    given: Mapping[str, Any],
    config: Path | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, str] = MappingProxyType({}),
) -> AnyOptions:
    """Options of one command: file < environment < ``--set`` < what was given on the command line.

    Args:
        kind: the options model of the command.
        given: options given on the command line; None means not given.
        config: a TOML file, or None.
        assignments: texts "key=value".
        flags: what given options are called in errors; by default as in Python.

    Raises:
        UsageError: an unknown key or a bad value. Variables of the environment that are no settings are passed over:
            others set them, too.
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
    # Of the commands one works on the file itself.
    common |= {"config": str(config)} if config is not None and "config" in kind.model_fields else {}
    return check_options(kind, common | given, called | {key: flags.get(key, key) for key in given})


def check_options(
    kind: type[AnyOptions], values: Mapping[str, Any], called: Mapping[str, str] = MappingProxyType({})
) -> AnyOptions:
    """The options model made of `values`, or a UsageError that names the first bad one, by what it is called."""
    try:
        return kind(**values)
    except ValidationError as error:
        # Not from it: it repeats what it was given.
        raise UsageError(_message(error, called)) from None


def setting_of(variable: str) -> str | None:
    """The setting that a variable of the environment is of, in capitals or not; None if it is none.

    >>> setting_of("NELBO_FPR"), setting_of("NELBO_PORT")
    ('fpr', None)
    """
    prefix, name = variable[: len(ENV_PREFIX)].upper(), variable[len(ENV_PREFIX) :].lower()
    return name if prefix == ENV_PREFIX and name in _KNOWN else None


def strange_variables() -> list[str]:
    """Variables of the environment that begin as settings do and are none, such as Kubernetes' of a Service nelbo."""
    ours = (name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name != PASSWORD)
    return sorted(name for name in ours if setting_of(name) is None)


def _read_toml(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise UsageError(f"--config {config}: no such file. Give a TOML file, or leave it out.")
    try:
        content = config.read_bytes()
        # What Windows calls Unicode.
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
            raise UsageError(f"--config {config} is UTF-16, and TOML is UTF-8. Save it as UTF-8.")
        return tomllib.loads(content.decode("utf-8-sig"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
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
    return f"unknown key {key!r}.{perhaps} Known are {', '.join(sorted(Settings.model_fields))}."
