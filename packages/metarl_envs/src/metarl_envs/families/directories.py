"""Where specifications come from: the shipped directory, and those of plug-ins and of users.

Every directory has the layout of `tasks_spec/`: a TOML file per family, `tables/` and `checksums.json`, which
`metarl-envs tasks freeze` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A directory of specifications.

    Attributes:
        name: what messages call it.
        directory: its absolute path.
    """

    name: str
    directory: Path

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its families, sorted."""
        return tuple(sorted(path.stem for path in self.directory.glob("*.toml")))


_added: list[Source] = []


def spec_directory() -> Path:
    """Returns the shipped directory: in the installed package, or in the repository."""
    here = Path(__file__).resolve()
    # In the package, beside this folder; in the repository, at its top.
    packaged = here.parents[1] / "tasks_spec"
    return packaged if packaged.is_dir() else here.parents[5] / "tasks_spec"


def sources() -> Iterator[Source]:
    """Yields all directories, the shipped one first."""
    yield Source("metarl_envs", spec_directory())
    yield from _added


def add(source: Source) -> None:
    """Adds a directory, unless it is there already."""
    if source.directory not in [known.directory for known in sources()]:
        _added.append(source)
