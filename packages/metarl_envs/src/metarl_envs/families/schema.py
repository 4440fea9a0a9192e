"""Checks of a specification file: its keys and their allowed values.

Every message contains the file, the key and the allowed values, because its reader is usually editing that
file.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class SpecError(ValueError):
    """A specification or a frozen table cannot be used; the message gives the place and the reason."""


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` if `name` is similar to an allowed one, otherwise an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[str]) -> str:
    """Returns names for an error message: quoted, separated by commas."""
    return ", ".join(repr(name) for name in names)


@dataclass(frozen=True)
class Key:
    """One key of a table: a test of its value, and a description of the allowed values."""

    accepts: Callable[[Any], bool]
    allowed: str
    required: bool = True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_number(x) for x in value)


def text(required: bool = True) -> Key:
    """A non-empty string."""
    return Key(lambda v: isinstance(v, str) and bool(v.strip()), "a non-empty string", required)


def integer(minimum: int, required: bool = True) -> Key:
    """An integer of at least `minimum`."""
    return Key(
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= minimum,
        f"an integer of at least {minimum}",
        required,
    )


def flag(required: bool = True) -> Key:
    """`true` or `false`."""
    return Key(lambda v: isinstance(v, bool), "true or false", required)


def one_of(names: Iterable[str], required: bool = True) -> Key:
    """One of the given strings."""
    names = tuple(names)
    return Key(lambda v: v in names, f"one of {listed(names)}", required)


def class_name(names: Iterable[str]) -> Key:
    """One of the given names of classes, or where another class is: `package.module:Class`."""
    names = tuple(names)
    return Key(
        lambda v: isinstance(v, str) and (v in names or bool(_CLASS_PATH.fullmatch(v))),
        f"one of {listed(names)}, or 'package.module:Class'",
    )


def texts(required: bool = True) -> Key:
    """A non-empty list of strings."""
    return Key(
        lambda v: isinstance(v, list) and bool(v) and all(isinstance(x, str) for x in v),
        "a non-empty list of strings",
        required,
    )


def numbers(required: bool = True) -> Key:
    """A non-empty list of finite numbers."""
    return Key(_is_numbers, "a non-empty list of finite numbers", required)


def number_lists(required: bool = True) -> Key:
    """A non-empty list of lists of finite numbers."""
    return Key(
        lambda v: isinstance(v, list) and bool(v) and all(map(_is_numbers, v)),
        "a non-empty list of lists of finite numbers",
        required,
    )


def number(required: bool = True) -> Key:
    """A finite number."""
    return Key(_is_number, "a finite number", required)


def table(required: bool = True) -> Key:
    """A table, checked separately."""
    return Key(lambda v: isinstance(v, dict), "a table", required)


def tables(required: bool = True) -> Key:
    """A non-empty list of tables, each checked separately."""
    return Key(
        lambda v: isinstance(v, list) and bool(v) and all(isinstance(x, dict) for x in v),
        "a list of tables",
        required,
    )


def anything(required: bool = True) -> Key:
    """Any TOML value."""
    return Key(lambda _: True, "any value", required)


def check(file: str, where: str, value: Mapping[str, Any], keys: Mapping[str, Key]) -> None:
    """Checks a table against its keys.

    Args:
        file: the file's name, for the message.
        where: the dotted path of the table in the file, empty at the top.
        value: the table.
        keys: its allowed keys.

    Raises:
        SpecError: a key is unknown or missing, or its value is not allowed.
    """
    prefix = f"{where}." if where else ""
    for name, content in value.items():
        key = keys.get(name)
        if key is None:
            raise SpecError(
                f"{file}: {prefix}{name} is not a known key (allowed: {listed(keys)})"
                + suggestion(name, keys)
            )
        if not key.accepts(content):
            raise SpecError(f"{file}: {prefix}{name} must be {key.allowed}, got {content!r}")
    for name, key in keys.items():
        if key.required and name not in value:
            raise SpecError(f"{file}: {prefix}{name} is missing; it must be {key.allowed}")


def keyword_options(cls: type) -> dict[str, Key]:
    """Returns the keyword options of a class and its bases, with what their annotations allow."""
    known: dict[str, Key] = {}
    for base in cls.__mro__:
        for name, parameter in inspect.signature(base.__init__).parameters.items():  # type: ignore[misc]
            if parameter.default is not inspect.Parameter.empty:
                known.setdefault(name, _ANNOTATED.get(str(parameter.annotation), anything(required=False)))
    return known


_ANNOTATED = {
    "bool": flag(required=False),
    "float": number(required=False),
    "float | None": number(required=False),
    "int": integer(1, required=False),
    "str": text(required=False),
    "str | None": text(required=False),
    "Sequence[float] | None": numbers(required=False),
}


def check_options(where: str, known: Mapping[str, Key], options: Mapping[str, Any]) -> None:
    """Checks keyword options.

    Args:
        where: what the options are of, for the message.
        known: the options that there are.
        options: the options that were given.

    Raises:
        SpecError: one is unknown, or its value is not allowed.
    """
    for name, value in options.items():
        if name not in known:
            raise SpecError(
                f"{where} has no option {name!r} (allowed: {listed(known)}){suggestion(name, known)}"
            )
        if not known[name].accepts(value):
            raise SpecError(f"{where}: the option {name!r} must be {known[name].allowed}, got {value!r}")
