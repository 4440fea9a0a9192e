"""Registration of families in Gymnasium: those of this package, of plug-ins, and of a user."""

from __future__ import annotations

import os
import warnings
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

import gymnasium
from gymnasium.envs.registration import parse_env_id

from metarl_envs.families import directories, schema, tables
from metarl_envs.families.directories import Source
from metarl_envs.families.schema import SpecError, listed
from metarl_envs.families.specs import HORIZON, parse, read_toml, registered_ids

PLUGINS = "metarl_envs.specs"
"""The group of entry points that name directories of specifications."""


def register_families() -> None:
    """Registers every family in `tasks_spec/` under its id.

    Only the time limit is read here; the rest of a specification is checked when the family is first used.
    """
    shipped = next(directories.sources())
    for family_id in shipped.ids:
        if family_id not in gymnasium.registry:
            _register(family_id, _horizon(shipped.directory, family_id))


def register_plugins() -> None:
    """Registers the families of installed plug-ins; one that is broken is left out with a warning.

    A plug-in is a distribution with an entry point in the group `metarl_envs.specs`, whose value is a
    package: the folder of that package is a directory as `register_specs` takes it.
    """
    for plugin in entry_points(group=PLUGINS):
        name = f"plug-in {plugin.name!r} ({plugin.value})"
        try:
            _register_source(Source(name, _package_folder(plugin)))
        except Exception as error:  # whatever importing somebody else's package raises
            warnings.warn(f"the families of the {name} are left out: {error}", RuntimeWarning, stacklevel=2)


def register_specs(directory: str | os.PathLike[str]) -> tuple[str, ...]:
    """Registers the families of a directory under their ids.

    The directory has the layout of `tasks_spec/`: a TOML file per family, `tables/` and `checksums.json`; the
    last two are written by `metarl-envs tasks freeze ID --specs DIRECTORY`. Calling this again registers the
    files that have come since.

    Registration holds for the present process. A process that is started by `spawn` or `forkserver` has to
    call this, too, before it makes an environment; it finds the families of a plug-in (an entry point in the
    group `metarl_envs.specs`) by importing `metarl_envs`.

    Args:
        directory: the directory.

    Returns:
        The ids of its families.

    Raises:
        SpecError: there is no such directory, it has no specification, a file in it cannot be read, or an id
            is malformed or taken; nothing is registered then.
    """
    path = Path(directory).resolve()
    return _register_source(Source(str(path), path))


def _register_source(source: Source) -> tuple[str, ...]:
    """Checks a directory, then registers what is new in it."""
    try:
        horizons = _checked_horizons(source)
    except SpecError as error:
        raise SpecError(f"{source.name}: {error}") from error
    directories.add(source)
    registered_ids.cache_clear()
    for family_id, horizon in horizons.items():
        _register(family_id, horizon)
    return source.ids


def _checked_horizons(source: Source) -> dict[str, int]:
    """Returns the time limits of the families that are not registered yet.

    Their specifications are read as a whole, so that a broken one is refused here and not in a command that
    goes through all families.

    Raises:
        SpecError: the directory cannot be used.
    """
    if not source.directory.is_dir():
        raise SpecError(f"{source.directory} is not a directory")
    if not source.ids:
        raise SpecError(f"{source.directory} has no specification, a file <Id>-v0.toml")
    tables.checksums(source.directory)
    others = [other for other in directories.sources() if other.directory != source.directory]
    is_known = source.directory in [known.directory for known in directories.sources()]
    horizons = {}
    for family_id in source.ids:
        try:
            version = parse_env_id(family_id)[2]
        except gymnasium.error.Error:
            version = None
        if version is None:
            raise SpecError(f"{family_id}.toml: a file's name must be that of an id, e.g. <Id>-v0.toml")
        if taken := [other.name for other in others if family_id in other.ids]:
            raise SpecError(f"the id {family_id!r} is taken by {listed(taken)}; choose another name")
        if family_id not in gymnasium.registry:
            content = read_toml(source.directory / f"{family_id}.toml")
            horizons[family_id] = parse(family_id, content, source.directory).horizon
        elif not is_known:
            raise SpecError(f"the id {family_id!r} is taken in Gymnasium's registry; choose another name")
    return horizons


def _horizon(directory: Path, family_id: str) -> int:
    file = f"{family_id}.toml"
    content = read_toml(directory / file)
    horizon = {k: v for k, v in content.items() if k == "horizon"}
    schema.check(file, "", horizon, {"horizon": HORIZON})
    return int(content["horizon"])


def _register(family_id: str, horizon: int) -> None:
    gymnasium.register(
        id=family_id,
        entry_point="metarl_envs.env:MetaEnv",
        vector_entry_point="metarl_envs.vector_env:MetaVectorEnv",
        max_episode_steps=horizon,
        kwargs={"family": family_id, "split": "train", "task": None, "observe_task": False},
    )


def _package_folder(plugin: EntryPoint) -> Path:
    """Returns the folder of an entry point's package, which is not imported; its parent packages are.

    Raises:
        SpecError: there is no such package.
    """
    spec = None if plugin.attr else find_spec(plugin.module)
    if spec is None or not spec.submodule_search_locations:
        raise SpecError("the entry point's value must be a package whose folder has the specifications")
    return Path(next(iter(spec.submodule_search_locations))).resolve()
