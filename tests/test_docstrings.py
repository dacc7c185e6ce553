"""Docstrings of public objects have their sections: summary, arguments, return value, errors, an example."""

import ast
import builtins
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

import pytest

PACKAGES = ("nelbo", "nelbo.data", "nelbo.vae_core", "nelbo.detectors")
#: A summary that begins with one of these, a plural or a sign names what comes back, and needs no `Returns:`.
NOUNS = {
    *("A", "All", "An", "Another", "Each", "Every", "Everything", "How", "It", "Same", "Several", "The", "Those"),
    *("Local", "Negative", "One", "Small", "These", "Two", "What", "When", "Where", "Whether", "Which", "Who"),
    *("AUROC", "Area", "Average", "F1", "Hex", "Mean", "Name", "Probability", "Smallest"),
}
#: Functions without an example, and why.
NO_EXAMPLE = {"nelbo.vae_core.fit_int8": "needs a pretrained backbone, TensorFlow, ONNX Runtime, and half a minute"}
#: Types of arrays, whose shapes must be documented.
ARRAYS = re.compile(r"^(?!.*Callable).*(ArrayLike|NDArray|ndarray)")


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class itself defines."""
    for name, it in vars(cls).items():
        it = it.__func__ if isinstance(it, classmethod | staticmethod) else it
        it = it.func if isinstance(it, cached_property) else it
        if not name.startswith("_") and isinstance(it, property | FunctionType):
            yield name, it


def public() -> dict[str, Any]:
    """Dotted name -> nelbo's function, class, method or property."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            it = getattr(module, name)
            if inspect.isclass(it) and it.__module__.startswith("nelbo."):
                found |= {f"{package}.{name}": it}
                found |= {f"{package}.{name}.{method}": one for method, one in methods(it)}
            elif inspect.isroutine(it) or hasattr(it, "__wrapped__"):
                found[f"{package}.{name}"] = inspect.unwrap(it)
    return found


PUBLIC = public()


def function_of(it: Any) -> FunctionType | None:
    """The function whose arguments and errors a docstring documents; None for a class that documents its fields."""
    if isinstance(it, property):
        return it.fget
    if inspect.isclass(it):
        written = is_dataclass(it) or getattr(it, "_is_protocol", False)
        return None if written else it.__dict__.get("__init__")
    return it


def section(docstring: str, title: str) -> str:
    """The lines below a heading, without their indentation."""
    found = re.search(rf"^{title}:\n((?: .*\n?|\n(?= ))+)", docstring, re.MULTILINE)
    return textwrap.dedent(found[1]) if found else ""


def entries(docstring: str, title: str) -> dict[str, str]:
    """Name -> its description below a heading."""
    parts = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*(?:\n +.*)*)", section(docstring, title), re.MULTILINE)
    return {name.strip("* "): text for names, text in parts for name in names.split(",")}


def arguments(docstring: str, function: FunctionType) -> Iterator[str]:
    """Undocumented arguments, arrays without a shape, and documented names that are no arguments."""
    told = entries(docstring, "Args")
    prose = docstring.split("Args:\n")[0].split("\n>>>")[0]
    taken = {
        name: str(one.annotation)
        for name, one in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    }
    for name, kind in taken.items():
        if name not in told and (ARRAYS.search(kind) or not re.search(rf"`+{name}\b", prose)):
            yield f"argument {name}"
        elif ARRAYS.search(kind) and "(" not in told[name]:
            yield f"the shape of {name}"
    yield from (f"no argument is called {name}" for name in told.keys() - taken.keys())


def errors(docstring: str, function: FunctionType) -> Iterator[str]:
    """Errors that the function itself raises but does not document."""
    said = entries(docstring, "Raises")
    scope = vars(builtins) | function.__globals__
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))))
    # Errors raised inside `try` may be caught and turned into others.
    tried = {id(one) for node in nodes if isinstance(node, ast.Try) for part in node.body for one in ast.walk(part)}
    for node in nodes:
        if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in tried:
            name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            error = scope.get(name)
            # A variable holds an error that was raised before.
            if inspect.isclass(error) and not said.keys() & {base.__name__ for base in error.__mro__[:-3]}:
                yield f"error {name}"


def lacks(it: Any, needs_example: bool) -> Iterator[str]:
    """What the docstring of a public object lacks."""
    docstring = inspect.cleandoc(it.__doc__ or "")
    summary = " ".join(docstring.split("\n\n")[0].split())
    if not re.search(r"[.:?)]$", summary):
        yield "a summary that ends"
        return
    function = function_of(it)
    if function is None:
        return
    yield from arguments(docstring, function)
    yield from errors(docstring, function)
    (first,) = re.findall(r"^\S+", summary)
    noun = first.strip(",:") in NOUNS or first.endswith("s") or not first[0].isalpha()
    comes_back = function.__annotations__.get("return") not in (None, "None") and not inspect.isclass(it)
    if comes_back and not noun and not section(docstring, "Returns"):
        yield f"what comes back, for it begins with {first!r}"
    if needs_example and not inspect.isclass(it) and ">>> " not in docstring:
        yield "an example"


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_have_their_sections(name: str) -> None:
    needs_example = name.rpartition(".")[0] in PACKAGES and name not in NO_EXAMPLE
    assert list(lacks(PUBLIC[name], needs_example)) == []


def test_missing_sections_are_found() -> None:
    import numpy as np

    def told(scores: np.ndarray, n: int) -> int:  # noqa: ARG001
        """Sum them.

        Args:
            scores: what to sum.
            m: how many.
        """
        raise KeyError(n)

    assert list(lacks(told, True)) == [
        *("the shape of scores", "argument n", "no argument is called m", "error KeyError"),
        *("what comes back, for it begins with 'Sum'", "an example"),
    ]

    def well_told(scores: np.ndarray, n: int) -> int:  # noqa: ARG001
        """The sum of `n` of them.

        Args:
            scores: (n,) in nats.

        Raises:
            LookupError: there are fewer.

        >>> 1 + 1
        2
        """
        raise KeyError(n)

    assert list(lacks(well_told, True)) == []
