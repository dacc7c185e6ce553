"""Options of the command line, as the fields of options models mark them."""

import inspect
import json
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_METAVARS = {int: "INTEGER", float: "NUMBER"}


@dataclass(frozen=True)
class Flag:
    """Marks a field that has an option on the command line; a field without it is only a setting, see `sources`.

    metavar: placeholder of the value in the help; by default its type.
    name: name of the option; by default ``--`` and the field's name, with dashes.
    positional: whether it is an argument without a name.
    hidden: whether it is accepted but left out of the help.
    """

    metavar: str | None = None
    name: str | None = None
    positional: bool = False
    hidden: bool = False


Value = TypeVar("Value")

#: Type of a field with a plain option.
Flagged = Annotated[Value, Flag()]


@dataclass(frozen=True)
class Option:
    """A field as the command line knows it."""

    field: str
    info: FieldInfo
    flag: Flag

    @property
    def name(self) -> str:
        """Its name on the command line: ``--min-age``, or ``DIR``."""
        if self.flag.positional:
            return self.metavar
        return self.flag.name or f"--{self.field.replace('_', '-')}"

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self._types == (bool,)

    @property
    def negation(self) -> str | None:
        """The ``--no-`` form of a switch that is not off by default; None for other options."""
        return f"--no-{self.name.removeprefix('--')}" if self.is_switch and self.info.default is not False else None

    @property
    def metavar(self) -> str:
        """The placeholder of the value."""
        if self.flag.metavar:
            return self.flag.metavar
        (kind, *_) = self._types
        return "|".join(get_args(kind)) if get_origin(kind) is Literal else _METAVARS.get(kind, "TEXT")

    @property
    def default(self) -> str:
        """The default, as text; empty where the description states it."""
        value = self.info.get_default()
        if value is False or value in (None, (), PydanticUndefined):
            return ""
        if value is True:
            return self.name
        text = json.dumps(value) if isinstance(value, tuple) else str(value)
        return f"{value:g}" if isinstance(value, float) else text

    @property
    def _types(self) -> tuple[Any, ...]:
        """Types of the value, apart from None."""
        kind = self.info.annotation
        found = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        return tuple(one for one in found if one is not NoneType)


def options_of(kind: type[BaseModel]) -> list[Option]:
    """The command-line options of a model: required ones first, then those that the model declares itself."""
    own = inspect.get_annotations(kind)
    found = [
        Option(name, info, flag)
        for name, info in kind.model_fields.items()
        for flag in info.metadata
        if isinstance(flag, Flag)
    ]
    return sorted(found, key=lambda option: (not option.info.is_required(), option.field not in own))


def setting_of(kind: type[BaseModel], name: str) -> tuple[str, str]:
    """A field that is only a setting: ``name=value`` with its default, as ``--set`` takes it, and its description.

    If there is no default, the type stands for the value.
    """
    option = Option(name, kind.model_fields[name], Flag())
    value = option.info.get_default()
    if value is None:
        text = option.metavar
    else:
        text = "x".join(map(str, value)) if isinstance(value, tuple) else option.default or str(value)
    return f"{name}={text}", str(option.info.description)
