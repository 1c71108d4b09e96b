"""Recipes as text: numbers changed by name from outside, and a recipe written beside the run it made."""

import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, cast

from joyhallo.errors import UserError
from joyhallo.training.recipes import Recipe

Value = TypeVar("Value")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def with_changes(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with `path=value` applied one after the other, as in `objective.noise_offset=0.1`.

    Raises:
        UserError: no such name (with the nearest there is), or a value that its type does not have.
    """
    for change in changes:
        path, separator, text = change.partition("=")
        if not separator:
            raise UserError(f"--set {change!r} has no value: write it as objective.noise_offset=0.1")
        recipe = _changed(recipe, path.strip(), path.strip().split("."), text.strip(), recipe)
    return recipe


def _changed(owner: Value, path: str, names: Sequence[str], text: str, recipe: Recipe) -> Value:
    first, *others = names
    hints = typing.get_type_hints(type(owner))
    if first not in hints or bool(others) != is_dataclass(getattr(owner, first)):
        known = list(paths(recipe))
        near = difflib.get_close_matches(path, known, n=1, cutoff=0.0)[0]
        raise UserError(f"the recipe has no number {path!r}: the nearest is {near!r} (all: {', '.join(known)})")
    inner = getattr(owner, first)
    value = _changed(inner, path, others, text, recipe) if others else parse(text, hints[first], path)
    return replace(cast("Any", owner), **{first: value})


def paths(owner: object, prefix: str = "") -> dict[str, Any]:
    """Every value of a recipe by its path."""
    found: dict[str, Any] = {}
    for field in fields(cast("Any", owner)):
        value = getattr(owner, field.name)
        found |= paths(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value}
    return found


def parse(text: str, kind: Any, path: str) -> Any:  # noqa: ANN401 (a type is what it returns a value of)
    """Text as a value of a type: numbers, truth, text, choices, None, and tuples with commas between.

    Raises:
        UserError: it is none.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if text.lower() == "none" and type(None) in options:
            return None
        return parse(text, next(option for option in options if option is not type(None)), path)
    if origin is Literal:
        if text not in options:
            near = difflib.get_close_matches(text, options, n=1, cutoff=0.0)[0]
            raise UserError(f"{path}={text!r} is not possible: use {', '.join(options)} (the nearest is {near!r})")
        return text
    if origin is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        kinds = [options[0]] * len(parts) if options[-1] is Ellipsis else options
        if len(parts) != len(kinds):
            raise UserError(f"{path}={text!r} is not possible: {len(kinds)} values are needed, with commas between")
        return tuple(parse(part, one, path) for part, one in zip(parts, kinds, strict=True))
    if kind is bool:
        if text.lower() not in _TRUTHS:
            raise UserError(f"{path}={text!r} is not possible: use true or false")
        return _TRUTHS[text.lower()]
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"{path}={text!r} is not possible: it must be {_called(kind)}") from error


def _called(kind: type) -> str:
    return {int: "a whole number", float: "a number"}.get(kind, kind.__name__)


def recipe_text(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), indent=1)


def read_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from what `recipe_text` wrote.

    Raises:
        UserError: it was written by another version.
    """
    return _built(Recipe, values, where)


def _built(kind: type[Value], values: Mapping[str, Any], where: str) -> Value:
    hints = typing.get_type_hints(kind)
    if set(values) != set(hints):
        odd = sorted(set(values) ^ set(hints))[0]
        raise UserError(f"{where} is of another version of this program (at {odd!r}): go on with that version")
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            arguments[name] = _built(cast("type", hints[name]), value, where)
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    return kind(**arguments)


def first_difference(mine: Recipe, theirs: Recipe) -> str | None:
    """The first value that differs, in words; None when the recipes are the same."""
    ours, others = paths(mine), paths(theirs)
    for path, value in ours.items():
        if value != others[path]:
            return f"{path} is {value} here and was {others[path]}"
    return None
