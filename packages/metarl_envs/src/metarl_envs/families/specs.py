"""Reading and checking of specifications."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from metarl_envs.bodies import BODIES
from metarl_envs.families import directories, distributions, schema, tables
from metarl_envs.families.definition import definition
from metarl_envs.families.distributions import Distribution
from metarl_envs.families.family import Argument, Family, Subset
from metarl_envs.families.schema import SpecError, listed, suggestion
from metarl_envs.simulation.objectives import OBJECTIVES

SPLITS = ("train", "validation", "test", "ood")
"""The names of all splits, in the order of every table."""

HORIZON = schema.integer(1)
"""Allowed values of the time limit, the only key that registration reads."""

_KEYS = {
    "title": schema.text(),
    "summary": schema.text(),
    "body": schema.class_name(BODIES),
    "objective": schema.class_name(OBJECTIVES),
    "horizon": HORIZON,
    "train_equals_test": schema.flag(required=False),
    "fixed_starts": schema.texts(required=False),
    "body_options": schema.table(required=False),
    "objective_options": schema.table(required=False),
    "parameters": schema.table(),
    "distribution": schema.table(),
    "table": schema.table(),
    "splits": schema.table(),
    "subsets": schema.table(required=False),
    "arguments": schema.table(required=False),
    "provenance": schema.tables(),
    "history": schema.tables(),
}
_PARAMETER_KEYS = {
    "names": schema.texts(),
    "units": schema.texts(),
    "low": schema.numbers(),
    "high": schema.numbers(),
}
_TABLE_KEYS = {
    "rule": schema.one_of(tables.RULES),
    "seed": schema.integer(0, required=False),
    "splits": schema.texts(required=False),
    "options": schema.table(required=False),
}
_TABLE_OPTIONS = {
    "random_state_spaced_rings": {"half_width": schema.number(), "spacing": schema.number()},
}
_SPLIT_KEYS = {"count": schema.integer(1), "distribution": schema.table(required=False)}
_VALIDATION_KEYS = {"count": schema.integer(1)}  # presets are chosen for the training distribution
_ARGUMENT_KEYS = {
    "of": schema.one_of(("body", "objective", "both")),
    "default": schema.anything(),
    "choices": schema.Key(lambda v: isinstance(v, list) and len(v) > 1, "a list of choices"),
    "doc": schema.text(),
    "changes_model": schema.flag(required=False),
}
_PROVENANCE_KEYS = {"variant": schema.text(), "same": schema.text(), "differs": schema.text()}
_SUBSET_KEYS = {"split": schema.text(), "count": schema.integer(1), "doc": schema.text()}
_HISTORY_KEYS = {
    "version": schema.text(),
    "change": schema.text(),
    "released": schema.text(required=False),
}


def _arguments(file: str, table: Mapping[str, Any]) -> dict[str, Argument]:
    arguments = {}
    schema.check(file, "arguments", table, dict.fromkeys(table, schema.table()))
    for name, row in table.items():
        schema.check(file, f"arguments.{name}", row, _ARGUMENT_KEYS)
        if row["default"] not in row["choices"]:
            raise SpecError(f"{file}: arguments.{name}.default must be one of its choices")
        if row.get("changes_model", False) and row["of"] == "objective":
            raise SpecError(
                f"{file}: arguments.{name}.changes_model must be left out of an objective's argument"
            )
        arguments[name] = Argument(
            name,
            row["of"],
            row["default"],
            tuple(row["choices"]),
            row["doc"],
            row.get("changes_model", False),
        )
    return arguments


def _named_splits(file: str, key: str, names: Iterable[str], splits: Mapping[str, Any]) -> tuple[str, ...]:
    for name in names:
        if name not in splits:
            raise SpecError(f"{file}: {key} names {name!r}, but splits.{name} is missing")
    return tuple(names)


def _subsets(file: str, table: Mapping[str, Any], splits: Mapping[str, tables.Split]) -> dict[str, Subset]:
    schema.check(file, "subsets", table, dict.fromkeys(table, schema.table()))
    subsets = {}
    for name, row in table.items():
        schema.check(file, f"subsets.{name}", row, _SUBSET_KEYS)
        split = row["split"]
        if split not in splits:
            raise SpecError(f"{file}: subsets.{name}.split must be one of {listed(splits)}")
        if row["count"] > splits[split].count:
            raise SpecError(
                f"{file}: subsets.{name}.count must be at most {splits[split].count}, the size of {split}"
            )
        subsets[name] = Subset(split, row["count"], row["doc"])
    return subsets


def _splits(
    file: str, content: Mapping[str, Any], base: Distribution, size: int, discrete: bool
) -> dict[str, tables.Split]:
    table = content["splits"]
    optional = {"ood"} | ({"validation"} if discrete else set())
    schema.check(file, "splits", table, {s: schema.table(required=s not in optional) for s in SPLITS})
    if discrete and "validation" in table:
        raise SpecError(f"{file}: splits.validation must be left out of a family that has only its members")
    splits: dict[str, tables.Split] = {}
    for split in (s for s in SPLITS if s in table):
        row = table[split]
        schema.check(file, f"splits.{split}", row, _VALIDATION_KEYS if split == "validation" else _SPLIT_KEYS)
        distribution = splits["train"].distribution if split == "validation" else base
        if "distribution" in row:
            where = f"splits.{split}.distribution"
            distribution = distributions.parse(file, where, row["distribution"], size)
        splits[split] = tables.Split(split, row["count"], distribution)
    return splits


def _table_splits(file: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the splits that the table's rule derives; validation, added later, is never one of them."""
    own = [name for name in content["splits"] if name != "validation"]
    names = content["table"].get("splits", own)
    if "validation" in names:
        raise SpecError(f"{file}: table.splits must not name validation, which is always drawn by 'philox'")
    return _named_splits(file, "table.splits", names, content["splits"])


def parse(name: str, content: Mapping[str, Any], directory: Path | None = None) -> Family:
    """Checks a specification's content and returns the family.

    Args:
        name: the id, which is the file's name without `.toml`.
        content: the parsed TOML.
        directory: where the file is; by default the shipped directory.

    Raises:
        SpecError: the content is invalid; the message gives file, key and allowed values.
    """
    file = f"{name}.toml"
    schema.check(file, "", content, _KEYS)
    parameters = content["parameters"]
    schema.check(file, "parameters", parameters, _PARAMETER_KEYS)
    size = len(parameters["names"])
    if len(set(parameters["names"])) != size:
        raise SpecError(f"{file}: parameters.names must not repeat a name")
    for key in ("units", "low", "high"):
        if len(parameters[key]) != size:
            raise SpecError(f"{file}: parameters.{key} must have {size} elements, one per name")
    if any(lo >= hi for lo, hi in zip(parameters["low"], parameters["high"], strict=True)):
        raise SpecError(f"{file}: parameters.low must be below parameters.high in every element")
    schema.check(file, "table", content["table"], _TABLE_KEYS)
    rule, seed = content["table"]["rule"], content["table"].get("seed")
    if rule.startswith("random_state") != (seed is not None):
        raise SpecError(f"{file}: table.seed belongs to the random_state rules, and only to them")
    table_options = content["table"].get("options", {})
    schema.check(file, "table.options", table_options, _TABLE_OPTIONS.get(rule, {}))
    base = distributions.parse(file, "distribution", content["distribution"], size)
    same = content.get("train_equals_test", False)
    if same != (rule == "members"):
        raise SpecError(f"{file}: train_equals_test must be true exactly when table.rule is 'members'")
    splits = _splits(file, content, base, size, same)
    for key, keys in (("provenance", _PROVENANCE_KEYS), ("history", _HISTORY_KEYS)):
        for i, row in enumerate(content[key]):
            schema.check(file, f"{key}[{i}]", row, keys)
    return Family(
        id=name,
        directory=directories.spec_directory() if directory is None else directory,
        title=content["title"],
        summary=content["summary"].strip(),
        body=content["body"],
        objective=content["objective"],
        horizon=content["horizon"],
        train_equals_test=same,
        fixed_starts=_named_splits(file, "fixed_starts", content.get("fixed_starts", []), splits),
        parameter_names=tuple(parameters["names"]),
        parameter_units=tuple(parameters["units"]),
        parameter_low=tuple(map(float, parameters["low"])),
        parameter_high=tuple(map(float, parameters["high"])),
        distribution=base,
        splits=splits,
        arguments=_arguments(file, content.get("arguments", {})),
        body_options=content.get("body_options", {}),
        objective_options=content.get("objective_options", {}),
        table_rule=rule,
        table_seed=seed,
        table_splits=_table_splits(file, content),
        table_options=table_options,
        subsets=_subsets(file, content.get("subsets", {}), splits),
        provenance=tuple(content["provenance"]),
        history=tuple(content["history"]),
        definition=definition(content),
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a specification file.

    Raises:
        SpecError: the file is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: {error}") from error


@lru_cache(maxsize=1)
def registered_ids() -> tuple[str, ...]:
    """Returns the ids of all families, sorted."""
    return tuple(sorted(family_id for source in directories.sources() for family_id in source.ids))


@cache
def _family(family_id: str) -> Family:
    directory = next(s.directory for s in directories.sources() if family_id in s.ids)
    return parse(family_id, read_toml(directory / f"{family_id}.toml"), directory)


def checked_family(given: Any) -> Family:
    """Returns a family from itself or its id.

    Raises:
        ValueError: it is neither, or there is no such family.
    """
    if isinstance(given, Family):
        return given
    if not isinstance(given, str):
        raise ValueError(f"a family is given as its id or as a Family, got {given!r}")
    return family(given)


def family(family_id: str) -> Family:
    """Returns a family by its id.

    Raises:
        ValueError: there is no such family; the message suggests the most similar one.
    """
    if family_id not in registered_ids():
        ids: Sequence[str] = registered_ids()
        raise ValueError(
            f"there is no family {family_id!r}"
            + (suggestion(str(family_id), ids) or f" (there are: {listed(ids)})")
        )
    return _family(family_id)
