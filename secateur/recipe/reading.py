"""Recipes as files: read, overridden from the command line, refused with one sentence, described by a schema."""

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from secateur.cost import parse_amount
from secateur.errors import UsageError
from secateur.methods import METHODS, AnyMethod
from secateur.names import nearest_name, unknown_name
from secateur.recipe.settings import BUDGET_OPTIONS, FORMAT, RECIPE, Recipe
from secateur.user_code import names_user_code

LIBRARY = resources.files("secateur.recipe").joinpath("library")
SUFFIX = ".yaml"

_METHOD: TypeAdapter[AnyMethod] = TypeAdapter(AnyMethod)

UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden", "invalid_key")
"""What pydantic calls a key that is not there."""

NUMBER_BRANCHES = ("int", "float")
"""What pydantic calls the two kinds of an amount; users know one key."""

KINDS = {
    "dataclass_type": "keys with values, indented below it",
    "dict_type": "keys with values, indented below it",
    "mapping_type": "keys with values, indented below it",
    "model_attributes_type": "keys with values, indented below it",
    "tuple_type": "a list, such as [a, b]",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text (a number in quotes is one)",
}
"""What should be there, by the name that pydantic gives to a value of the wrong kind."""


@dataclass(frozen=True)
class Listed:
    """A recipe that comes with Secateur."""

    name: str
    title: str


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with Secateur, such as ``l1-resnet56-a``, sorted."""
    return sorted(entry.name.removesuffix(SUFFIX) for entry in LIBRARY.iterdir() if entry.name.endswith(SUFFIX))


def listed_recipes() -> list[Listed]:
    """Return name and title of every recipe that comes with Secateur."""
    return [Listed(name, str(yaml.safe_load(recipe_text(name)).get("title", ""))) for name in recipe_names()]


def recipe_text(name: str) -> str:
    """Return the text of a recipe: of a file, or of one that comes with Secateur.

    Raises:
        UsageError: there is neither; the nearest name is suggested.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path} is not a text file; give a recipe as YAML") from error
        except FileNotFoundError as error:
            near = nearest_name(path.stem, recipe_names())
            hint = f"did you mean the recipe {near!r}, which" if near else "`secateur recipe --list` names those that"
            raise UsageError(f"there is no file {path}; {hint} comes with Secateur") from error
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror or error}; give a recipe that can be read"
            ) from error
    if name not in recipe_names():
        raise UsageError(unknown_name("recipe", name, recipe_names()) + "; or give the path of a .yaml file")
    return LIBRARY.joinpath(name + SUFFIX).read_text(encoding="utf-8")


def read_recipe(name: str, overrides: Sequence[str] = (), *, allow_code: bool = False) -> Recipe:
    """Read a recipe, with settings replaced as ``key=value`` says.

    Args:
        name: path of a YAML file, or the name of a recipe that comes with Secateur.
        overrides: such as ``budget.macs=0.4``: keys of nested settings joined by dots, and a value as in YAML.
        allow_code: whether the recipe may name the user's code (``file.py:function``).

    Raises:
        UsageError: no such recipe, not YAML, an unknown key (the nearest is suggested), a value of the wrong kind or
            out of range, a recipe of another format, or code that was not allowed.
        BudgetError: an amount out of range.
    """
    text = recipe_text(name)
    try:
        values = yaml.load(text, Loader=_Loader)  # which is a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        fix = getattr(error, "note", None) or "write it as YAML: `key: value`, nested by indentation"
        raise UsageError(f"{name}{where}: {problem}; {fix}") from error
    if not isinstance(values, dict):
        kind = "empty" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise UsageError(f"{name} is {kind}; a recipe holds keys such as model, data, budget and method")
    for override in overrides:
        _override(values, override)
    return recipe_from(values, origin=name, allow_code=allow_code)


def recipe_from(values: Mapping[str, Any], *, origin: str = "the recipe", allow_code: bool = False) -> Recipe:
    """Return the recipe that ``values`` say.

    Args:
        values: as read from YAML or JSON.
        origin: what messages call it.
        allow_code: see :func:`read_recipe`.

    Raises:
        UsageError: see :func:`read_recipe`.
        BudgetError: an amount out of range.
    """
    version = values.get("secateur", FORMAT)
    if version != FORMAT:
        raise UsageError(
            f"{origin} is a recipe of format {version!r}, but this version of Secateur reads format {FORMAT}; use the "
            "version that it was made for, or write it anew (`secateur recipe --schema` describes the keys)"
        )
    try:
        recipe = RECIPE.validate_python(_with_amounts(values))
    except ValidationError as error:
        raise UsageError(f"{origin}: {_sentence(error)}") from error
    named = [spec for spec in (recipe.model.spec, recipe.data.spec) if names_user_code(spec)]
    if named and not allow_code:
        raise UsageError(
            f"{origin} names {' and '.join(named)}, which is code that would run; if you trust it, add --allow-code"
        )
    return recipe


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, which editors use to complete and to check."""
    schema = RECIPE.json_schema()
    for amount in schema["$defs"]["Budget"]["properties"].values():
        amount["anyOf"].append({"type": "string"})  # see _with_amounts
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Secateur recipe",
        **{key: value for key, value in schema.items() if key != "title"},
    }


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML's loader would take the last; 2:4 is a text, and not 124."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (the base class has it so, and reads it only)
        first: [("tag:yaml.org,2002:str", re.compile(r"[-+]?[0-9_]+(:[0-9]+)+(\.[0-9_]*)?$")), *found]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value} stands here twice",
                    problem_mark=key.start_mark,
                    note="take one of them out",
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _with_amounts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with a budget of numbers, where amounts are written as on the command line (60M, 50%)."""
    budget = values.get("budget")
    if not isinstance(budget, Mapping):
        return dict(values)
    read = {
        name: parse_amount(name, str(amount)) if isinstance(amount, str | bool) and name in BUDGET_OPTIONS else amount
        for name, amount in budget.items()
    }
    return {**values, "budget": read}


def _override(
    values: dict[str, Any], override: str, *, option: str = "--set", example: str = "budget.macs=0.4"
) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"{option} {override!r} is not key=value; write for example {option} {example}")
    try:
        value = yaml.load(text, Loader=_Loader)  # which is a safe one
    except yaml.YAMLError as error:
        raise UsageError(
            f"{option} {override!r}: the value is not YAML; put names with special characters in quotes"
        ) from error
    *parents, last = key.strip().split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        if inner is not None and not isinstance(inner, dict):
            raise UsageError(
                f"{option} {override!r}: {parent} is {inner!r} in the recipe, which has no keys of its own"
            )
        # A copy, because an alias in the YAML makes two places share one mapping.
        place[parent] = place = dict(inner or {})
    place[last] = value


def method_from(method: AnyMethod, overrides: Iterable[str]) -> AnyMethod:
    """Return ``method`` with some settings replaced, each written as ``name=value``, as in a recipe.

    Raises:
        UsageError: an unknown name, a value that is not for it, or text that is no ``name=value``.
    """
    overrides = tuple(overrides)
    if not overrides:
        return method
    values: dict[str, Any] = _METHOD.dump_python(method, mode="json")
    for override in overrides:
        if override.partition("=")[0].strip() == "name":
            raise UsageError(f"--setting {override!r} would choose another method; give --method for that")
        _override(values, override, option="--setting", example="min_share=0.1")
    try:
        changed: AnyMethod = _METHOD.validate_python(values)
    except ValidationError as error:
        raise UsageError(f"--setting: {_sentence(error)}") from error
    return changed


def _sentence(error: ValidationError) -> str:
    """Say the first thing that is wrong: unknown keys before missing ones, which they often explain."""
    problems = error.errors()
    first = next((p for p in problems if p["type"] in UNKNOWN_KEY), problems[0])
    place, kind = first["loc"], first["type"]
    where = ".".join(str(part) for part in place if part not in (*METHODS, *NUMBER_BRANCHES))
    if kind in UNKNOWN_KEY:
        return _unknown_key(place)
    if kind in ("missing", "missing_argument"):
        return f"the key {where} is missing; `secateur recipe --schema` describes all keys"
    if kind == "union_tag_invalid":
        return unknown_name("method", str(first["ctx"]["tag"]), METHODS)
    if kind == "union_tag_not_found":
        return f"{where} has no name; give name: and one of {', '.join(METHODS)}"
    wanted = KINDS.get(kind, first["msg"].removeprefix("Value error, ").removeprefix("Input should be "))
    found = first["input"]
    if isinstance(found, Mapping):
        return f"{where} has keys of its own ({', '.join(map(str, found))}), but should be {wanted}"
    return f"{where} is {'empty' if found is None else repr(found)}, but should be {wanted}"


def _unknown_key(place: Sequence[int | str]) -> str:
    """Refuse the key at ``place``; names are compared without what is above them, which all have in common."""
    key, parents = str(place[-1]), [str(part) for part in place[:-1]]
    shown = ".".join((*(part for part in parents if part not in METHODS), key))
    above = shown.removesuffix(key)
    owners = [name for name, method in METHODS.items() if key in {entry.name for entry in fields(method)}]
    keys = _keys_at(place[:-1])
    near = nearest_name(key, keys)
    slip = near is not None and near.rstrip("s") == key.rstrip("s")  # singular for plural, whoever else has such a key
    if parents and parents[-1] in METHODS and owners and not slip:
        return f"{shown} is a setting of the method {owners[0]}, not of {parents[-1]}; leave it out"
    if near is not None:
        return f"unknown key {shown!r}; did you mean '{above}{near}'?"
    return f"unknown key {shown!r}; choose one of: {', '.join(above + name for name in sorted(keys))}"


def _keys_at(place: Sequence[int | str]) -> list[str]:
    """Return the keys that the settings at ``place`` have, following the types of :class:`Recipe`."""
    here: Any = Recipe
    for part in place:
        if part in METHODS:
            here = METHODS[str(part)]
            continue
        options = _dataclasses_in(typing.get_type_hints(here).get(str(part)))
        if len(options) == 1:  # otherwise the next part says which of several
            here = options[0]
    return [entry.name for entry in fields(here)]


def _dataclasses_in(hint: Any) -> list[type[Any]]:
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated):
        return [found for inner in typing.get_args(hint) for found in _dataclasses_in(inner)]
    return []
