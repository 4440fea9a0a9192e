"""The frozen tables: the tasks of every split.

A table depends only on its specification. `derive` computes it. `load` reads the frozen copy and checks it
against `checksums.json`. A test and `metarl-envs tasks verify` check that the two are equal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metarl_envs.families import schema
from metarl_envs.families.definition import differences
from metarl_envs.families.distributions import Annulus, Arc, Array, Choice, Distribution, Uniform
from metarl_envs.families.schema import SpecError
from metarl_envs.files import atomic_path, readable_json

KINDS = ("tables", "models", "specs")
"""What has checksums: tables of splits, compiled models by version of MuJoCo, sections of specifications."""


@dataclass(frozen=True)
class Split:
    """One split of a family: the number of its tasks and their distribution."""

    name: str
    count: int
    distribution: Distribution


class Tabled(Protocol):
    """The properties from which tables are derived; a `Family` has them."""

    @property
    def id(self) -> str:
        """The Gymnasium id."""
        ...

    @property
    def directory(self) -> Path:
        """Where its specification, its tables and their checksums are."""
        ...

    @property
    def splits(self) -> Mapping[str, Split]:
        """Name -> split."""
        ...

    @property
    def distribution(self) -> Distribution:
        """The distribution of splits that do not define another one."""
        ...

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the columns."""
        ...

    @property
    def parameter_low(self) -> tuple[float, ...]:
        """The lower bound of each column."""
        ...

    @property
    def parameter_high(self) -> tuple[float, ...]:
        """The upper bound of each column."""
        ...

    @property
    def train_equals_test(self) -> bool:
        """Whether train and test contain the same tasks."""
        ...

    @property
    def table_rule(self) -> str:
        """A name in `RULES`."""
        ...

    @property
    def table_seed(self) -> int | None:
        """The seed of the rule, or None."""
        ...

    @property
    def table_splits(self) -> tuple[str, ...]:
        """The splits that the rule derives."""
        ...

    @property
    def table_options(self) -> Mapping[str, float]:
        """Further numbers of the rule."""
        ...

    @property
    def definition(self) -> Mapping[str, str]:
        """Section of the specification -> its checksum."""
        ...


def _philox_uniforms(key: str, index: int, n: int) -> Array:
    """Returns `n` uniforms in [0, 1) that depend only on the key and the index.

    Philox is counter-based, so row `index` does not depend on earlier rows. The raw 64-bit outputs are
    used because NumPy guarantees their stream, but not that of `Generator.uniform`. Their upper 53 bits
    give a float64. The index is the second word of the counter, so each row has 2^64 blocks.
    """
    digest = hashlib.sha256(key.encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=index << 64)
    raw = np.atleast_1d(np.asarray(generator.random_raw(n), dtype=np.uint64))
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _philox(family: Tabled, splits: Iterable[str]) -> dict[str, Array]:
    result = {}
    for name in splits:
        split = family.splits[name]
        d = split.distribution
        u = np.stack([_philox_uniforms(f"{family.id}/{name}", i, d.uniforms) for i in range(split.count)])
        result[name] = d.from_uniforms(u)
    return result


def _members(family: Tabled, splits: Iterable[str]) -> dict[str, Array]:
    """Every split of a discrete family contains all its members, in their order."""
    result = {}
    for name in splits:
        split = family.splits[name]
        if not isinstance(split.distribution, Choice) or split.count != len(split.distribution.values):
            raise SpecError(
                f"{family.id}: the table rule 'members' needs a 'choice' distribution"
                " with as many values as the split has tasks"
            )
        result[name] = np.asarray(split.distribution.values, dtype=np.float64)
    return result


def _random_state_uniform(family: Tabled, splits: Iterable[str]) -> dict[str, Array]:
    """One draw of NumPy's frozen legacy generator over all splits, the rule of oyster's lists.

    Each split maps its part of the draw to its own box.
    """
    state = np.random.RandomState(family.table_seed)
    result = {}
    for name in splits:
        split = family.splits[name]
        box = split.distribution
        if not isinstance(box, Uniform):
            raise SpecError(f"{family.id}: this table rule needs a 'uniform' distribution")
        result[name] = state.uniform(box.low, box.high, size=(split.count, len(box.low)))
    return result


def _random_state_arc_grid(family: Tabled, splits: Iterable[str]) -> dict[str, Array]:
    """Evenly spaced points of an arc, shuffled by the legacy generator, as oyster's sparse points."""
    arc = family.distribution
    if not isinstance(arc, Arc):
        raise SpecError(f"{family.id}: this table rule needs an 'arc' distribution")
    counts = {name: family.splits[name].count for name in splits}
    points = arc.at(np.linspace(arc.low, arc.high, sum(counts.values())))
    np.random.RandomState(family.table_seed).shuffle(points)
    ends = np.cumsum(list(counts.values()))
    return dict(zip(counts, np.split(points, ends[:-1]), strict=True))


def _random_state_spaced_rings(family: Tabled, splits: Iterable[str]) -> dict[str, Array]:
    """Points of a square in the split's ring and far enough from the others, the rule of TESP's goals.

    The options are the `half_width` of the square and the minimum `spacing`, which applies to all points of
    one ring in all splits.
    """
    state = np.random.RandomState(family.table_seed)
    half_width, spacing = family.table_options["half_width"], family.table_options["spacing"]
    kept: dict[Annulus, list[Array]] = {}
    result = {}
    for name in splits:
        split = family.splits[name]
        ring = split.distribution
        if not isinstance(ring, Annulus):
            raise SpecError(f"{family.id}: this table rule needs 'annulus' distributions")
        neighbours = kept.setdefault(ring, [])
        start = len(neighbours)
        while len(neighbours) - start < split.count:
            point = state.uniform(-half_width, half_width, size=2)
            inside = ring.inner < np.hypot(*point) < ring.outer
            if inside and all(np.hypot(*(point - other)) > spacing for other in neighbours):
                neighbours.append(point)
        result[name] = np.stack(neighbours[start:])
    return result


RULES = {
    "philox": _philox,
    "members": _members,
    "random_state_uniform": _random_state_uniform,
    "random_state_arc_grid": _random_state_arc_grid,
    "random_state_spaced_rings": _random_state_spaced_rings,
}
"""Rule name of a specification -> the function that derives its tables."""


def derive(family: Tabled) -> dict[str, Array]:
    """Computes a family's tables from its specification, split name -> `(count, P)`."""
    own = RULES[family.table_rule](family, family.table_splits)
    rest = _philox(family, [name for name in family.splits if name not in own])
    return {name: own[name] if name in own else rest[name] for name in family.splits}


def checksum(family_id: str, split: str, rows: NDArray[np.float64]) -> str:
    """Returns the SHA-256 of a table: its name, its shape and its little-endian float64 values."""
    digest = hashlib.sha256(f"{family_id}/{split}/{rows.shape}".encode())
    digest.update(np.ascontiguousarray(rows, dtype="<f8").tobytes())
    return digest.hexdigest()


@cache
def checksums(directory: Path) -> Mapping[str, Any]:
    """Reads `checksums.json`, a table for each of `KINDS`: id -> split, version or section -> checksum.

    Args:
        directory: the specifications' directory. Without the file, nothing in it is frozen.

    Raises:
        SpecError: the file is malformed.
    """
    return _read_checksums(directory)


def _read_checksums(directory: Path) -> dict[str, dict[str, dict[str, str]]]:
    path = directory / "checksums.json"
    try:
        content = json.loads(path.read_text()) if path.exists() else {kind: {} for kind in KINDS}
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: the checksums cannot be read: {error}") from error
    schema.check(path.name, "", _table(path.name, content), dict.fromkeys(KINDS, schema.table()))
    for kind, families in content.items():
        schema.check(path.name, kind, families, dict.fromkeys(families, schema.table()))
        for family_id, entries in families.items():
            schema.check(path.name, f"{kind}.{family_id}", entries, dict.fromkeys(entries, schema.text()))
    return content


def _table(file: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SpecError(f"{file}: must be a table, got {content!r:.100}")
    return content


def load(family: Tabled) -> dict[str, Array]:
    """Reads a family's frozen tables and checks them.

    Returns:
        Split name -> `(count, P)`.

    Raises:
        SpecError: the specification is not the frozen one, or the file is missing or malformed, has other
            splits or counts than the specification, or does not have the recorded checksum.
    """
    path = _path(family)
    recorded = checksums(family.directory)["specs"].get(family.id)
    if recorded is None:
        raise SpecError(f"{family.id} is not frozen (`metarl-envs tasks freeze` does that)")
    if found := differences(family.definition, recorded):
        raise SpecError(
            f"{family.id}.toml: {'; '.join(found)}; restore it from the release, or, before the first"
            " release, unfreeze it before it is changed"
        )
    tables = _read(path)
    if list(tables) != list(family.splits):
        raise SpecError(f"{path.name}: holds the splits {list(tables)}, not {list(family.splits)}")
    for name, rows in tables.items():
        _check(family, name, rows)
    return tables


def _path(family: Tabled) -> Path:
    return family.directory / "tables" / f"{family.id}.json"


def _read(path: Path) -> dict[str, Array]:
    try:
        content = json.loads(path.read_text())
        return {name: np.array(rows, dtype=np.float64) for name, rows in content.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SpecError(f"{path.name}: the frozen table cannot be read: {error}") from error


def _check(family: Tabled, name: str, rows: Array) -> None:
    expected_shape = (family.splits[name].count, len(family.parameter_names))
    if rows.shape != expected_shape:
        raise SpecError(f"{_path(family).name}: {name} has shape {rows.shape}, not {expected_shape}")
    if checksum(family.id, name, rows) != checksums(family.directory)["tables"].get(family.id, {}).get(name):
        raise SpecError(
            f"{_path(family).name}: the {name} table does not have its recorded checksum, so it is not the"
            " frozen one; restore it from the release (`metarl-envs tasks verify` checks)"
        )


def overlaps(family: Tabled, tables: Mapping[str, Array]) -> list[str]:
    """Returns which splits share tasks although they should not; empty if there are none.

    Tasks count as equal up to the rounding between two ways of computing them, e.g. on an arc.
    """
    found = []
    for first, second in itertools.combinations(tables, 2):
        if family.train_equals_test and (first, second) == ("train", "test"):
            continue
        apart = np.abs(tables[first][:, None] - tables[second][None]).max(axis=2)
        shared = int((apart <= 1e-9).any(axis=0).sum())
        if shared:
            found.append(f"{first} and {second} share {shared} tasks")
    return found


def faults(family: Tabled, tables: Mapping[str, Array]) -> list[str]:
    """Returns what a family's tables must not be and are; empty where they are sound."""
    found = []
    low, high = np.asarray(family.parameter_low), np.asarray(family.parameter_high)
    for name, rows in tables.items():
        if not family.splits[name].distribution.contains(rows).all():
            found.append(f"the {name} table has tasks outside its distribution")
        if not ((rows >= low) & (rows <= high)).all():
            found.append(f"the {name} table has tasks outside parameters.low and parameters.high")
    return found + overlaps(family, tables)


def freeze(family: Tabled) -> tuple[str, ...]:
    """Writes the tables of a new family or a new split, and their checksums, into the specification folder.

    Returns:
        What was frozen by this call: sections of the specification, among them `splits.NAME` with a table.

    Raises:
        SpecError: every split is already frozen, or the tables have `faults`. Frozen tables never change; a
            different table requires a new version of the family.
    """
    path = _path(family)
    frozen = _read(path) if path.exists() else {}
    recorded = checksums(family.directory)["specs"].get(family.id, {})
    new = [name for name in family.definition if name not in recorded]
    lost = [f"splits.{name}" for name in family.splits if name not in frozen and f"splits.{name}" not in new]
    changed = differences({k: v for k, v in family.definition.items() if k not in new}, recorded)
    if changed or not (new or lost):
        raise SpecError(
            f"{family.id} is already frozen; {'; '.join(changed) or 'nothing is new'}; a changed definition"
            " needs a new version (-v1), or, before the first release, `metarl-envs tasks unfreeze`"
        )
    for name, rows in frozen.items():
        if name not in family.splits:
            raise SpecError(f"{path.name}: holds the split {name!r}, which {family.id} does not have")
        _check(family, name, rows)
    tables = {name: frozen.get(name, rows) for name, rows in derive(family).items()}
    if found := faults(family, tables):
        raise SpecError(f"{family.id}: {'; '.join(found)}")
    with atomic_path(path) as file:
        file.write_text(readable_json({k: rows.tolist() for k, rows in tables.items()}) + "\n")
    record_checksums(
        family, "tables", {name: checksum(family.id, name, rows) for name, rows in tables.items()}
    )
    record_checksums(family, "specs", family.definition)
    return (*new, *lost)


def unfreeze(family: Tabled) -> None:
    """Removes a family's frozen tables and all its checksums.

    Raises:
        SpecError: nothing of it is frozen.
    """
    path = _path(family)
    recorded = any(family.id in entries for entries in checksums(family.directory).values())
    if not recorded and not path.exists():
        raise SpecError(f"{family.id} is not frozen")
    # A table without checksum is refused; should the second step fail, the next attempt removes it.
    for kind in KINDS:
        _write_checksums(family, kind, {})
    path.unlink(missing_ok=True)


def record_checksums(family: Tabled, kind: str, values: Mapping[str, str]) -> None:
    """Adds checksums of a family to `checksums.json`, under one of `KINDS`."""
    recorded = _read_checksums(family.directory)[kind].get(family.id, {})
    others = {k: v for k, v in recorded.items() if k not in values}
    _write_checksums(family, kind, others | dict(values))  # the splits of a family keep their order


def _write_checksums(family: Tabled, kind: str, values: Mapping[str, str]) -> None:
    """Replaces the checksums of a family; without any it has no entry."""
    content = _read_checksums(family.directory)
    content[kind].pop(family.id, None)
    if values:
        content[kind] = dict(sorted((content[kind] | {family.id: dict(values)}).items()))
    with atomic_path(family.directory / "checksums.json") as file:
        file.write_text(readable_json(content) + "\n")
    checksums.cache_clear()
