"""Kinds of values that options have."""

import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, StringConstraints, ValidationInfo, WithJsonSchema

from nelbo.data.path_rules import check_path_rule
from nelbo.data.sources.urls import HARMLESS
from nelbo.flows.workspace.errors import UsageError
from nelbo.flows.workspace.home import expand_home

#: Chosen to suit the images, or another setting.
AUTO: Final = "auto"
ON: Final = "on"
OFF: Final = "off"


def rows(value: Any) -> Any:
    """The matrix in a JSON text; other values unchanged."""
    return json.loads(value) if isinstance(value, str) else value


def names(value: Any) -> Any:
    """The names in a text with commas between them, without empty ones; other values unchanged."""
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def names_or_auto(value: Any) -> Any:
    """None for "auto"; otherwise as `names`."""
    return None if value == AUTO else names(value)


def numbers(value: Any) -> Any:
    """A list of one for a single number; otherwise as `names`."""
    return [value] if isinstance(value, int | float) else names(value)


#: Engines that a model can be exported for; and those that can score, among them int8, a second fit made in training.
MadeFor = Literal["keras", "openvino", "onnx"]
EngineName = Literal[MadeFor, "int8"]

_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}


def duration_s(text: str, name: str = "age") -> int:
    """A text of hours, days or weeks in seconds; `name` is the option's, for the error.

    >>> duration_s("90d"), duration_s("12h")
    (7776000, 43200)
    """
    found = re.fullmatch(r"([1-9]\d{0,5})([hdw])", text, re.ASCII)
    if found is None:
        raise UsageError(f"{name}={text!r}: expected hours, days or weeks, such as 12h, 90d or 4w.")
    return int(found[1]) * _SECONDS[found[2]]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("no file or id has a NUL character in its name")
    return text


#: Paths, URLs and ids; an empty one would mean the current folder. Pydantic refuses names that are not UTF-8. With the
#: pattern in a deployment's schema, Prefect's server itself refuses credentials, which it would otherwise have stored.
Text = Annotated[
    str,
    StringConstraints(min_length=1),
    AfterValidator(_without_nul),
    WithJsonSchema({"type": "string", "minLength": 1, "pattern": HARMLESS}),
]

#: A path, or a URL.
PathText = Annotated[Text, AfterValidator(expand_home)]


def _age(text: str, info: ValidationInfo) -> str:
    duration_s(text, str(info.field_name))
    return text


#: An age, as `duration_s` reads it.
AgeText = Annotated[Text, AfterValidator(_age)]


def _scheduler_address(text: str) -> str:
    if re.fullmatch(r"(tcp|tls)://[^/@\s]+:\d+", text) is None:
        raise UsageError(f"dask_address={text!r}: expected tcp://host:8786, or tls://host:8786.")
    return text


def _path_rule(text: str, info: ValidationInfo) -> str:
    try:
        check_path_rule(text)
    except ValueError as error:
        raise UsageError(
            f"{info.field_name}={text!r}: {error}. Expected folder, or a regular expression that finds a name in a "
            r"path, such as (part\d+)_."
        ) from error
    return text


#: Where a Dask scheduler listens.
SchedulerAddress = Annotated[Text, AfterValidator(_scheduler_address)]

#: The part of a path that names an image's group or variant: ``folder``, or a regular expression.
PathRule = Annotated[Text, AfterValidator(_path_rule)]
