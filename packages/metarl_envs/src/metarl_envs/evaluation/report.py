"""The result of an evaluation, with everything needed to interpret and repeat it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.protocol import Protocol
from metarl_envs.evaluation.provenance import Provenance
from metarl_envs.evaluation.statistics import normalised
from metarl_envs.files import atomic_path, readable_json

_FORMAT = "metarl-envs report 1"
_PER_EPISODE = {
    "returns": np.float64,
    "lengths": np.int64,
    "success_once": np.bool_,
    "success_at_end": np.bool_,
    "terminated": np.bool_,
    "diverged": np.bool_,
}
_KINDS: dict[str, Any] = {
    "agent": str,
    "family": str,
    "protocol": dict,
    "tasks": list,
    "provenance": dict,
    "wall_time": int | float | None,
    "references": dict,
    "reward_terms": dict,
    "condensed": bool,
}
_ARRAY_KINDS = {"b": "b", "i": "iu", "f": "iuf"}

#: Larger files are no reports, and no report has more episodes.
MOST_BYTES = 1_000_000_000
MOST_EPISODES = 100_000_000


def _array(name: str, value: Any, kind: Any) -> NDArray[Any]:
    """An array of a report's values.

    Raises:
        ValueError: If they are not of this kind, or not finite.
    """
    given = np.asarray(value)
    if given.dtype.kind not in _ARRAY_KINDS[np.dtype(kind).kind]:
        raise ValueError(f"{name} of a report must have values of the type {np.dtype(kind)}")
    array = given.astype(kind)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} of a report must be finite")
    return array


@dataclass(frozen=True, eq=False)
class Report:
    """Every episode of an evaluation. Arrays are (R seeds, T tasks, K episodes of the trial).

    Attributes:
        agent: Name of the agent.
        family: Id of the family.
        protocol: The evaluation protocol.
        tasks: Each task as a dict, in the order of the arrays' second axis.
        returns: Undiscounted returns.
        reward_terms: Contribution of each reward term to the return, by ``reward_<term>``.
        lengths: Number of steps of the episode.
        success_once: Whether any step was a success.
        success_at_end: Whether the last step was a success; None if it was not recorded.
        terminated: Whether the episode ended for another reason than the time limit.
        diverged: Whether it ended because the simulation diverged.
        provenance: Checksums, versions, arguments and the command line.
        wall_time: Duration of the evaluation in seconds; None if it was not recorded.
        condensed: Whether the episodes between two updates have been replaced by their mean; see
            `condense`. Their lengths and flags are then floats.
        references: Scores (R, T) of reference agents on the same tasks, by name.

    Raises:
        ValueError: If the shape of an array does not fit the protocol and the tasks.
    """

    agent: str
    family: str
    protocol: Protocol
    tasks: tuple[dict[str, Any], ...]
    returns: NDArray[np.float64]
    reward_terms: Mapping[str, NDArray[np.float64]]
    lengths: NDArray[np.int64]
    success_once: NDArray[np.bool_]
    success_at_end: NDArray[np.bool_] | None
    terminated: NDArray[np.bool_]
    diverged: NDArray[np.bool_]
    provenance: Provenance
    wall_time: float | None
    references: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    condensed: bool = False

    #: What the first axis of the arrays is.
    unit: ClassVar[str] = "trial seed"

    def __post_init__(self) -> None:
        per_task = (len(self.protocol.seeds), len(self.tasks))
        per_episode = (*per_task, self.protocol.num_episodes)
        checks: list[tuple[str, NDArray[Any], tuple[int, ...]]] = [
            (name, array, per_episode) for name, array in self._per_episode().items()
        ]
        checks += [(name, array, per_episode) for name, array in self.reward_terms.items()]
        checks += [(f"reference {n}", array, per_task) for n, array in self.references.items()]
        for name, array, shape in checks:
            if array.shape != shape:
                raise ValueError(f"{name} of a report must have shape {shape}, got {array.shape}")

    @property
    def scores(self) -> NDArray[np.float64]:
        """Mean return over the scored episodes (R, T)."""
        return self.scored("return")

    def scored(self, metric: str) -> NDArray[np.float64]:
        """Mean of a metric over the scored episodes (R, T)."""
        values = self.metric(metric)[..., -self.protocol.scored_episodes :]
        return np.asarray(values.mean(axis=-1), np.float64)

    @property
    def metrics(self) -> Mapping[str, NDArray[Any]]:
        """Every recorded metric of every episode (R, T, K), by name.

        The names are "return", "length", "success_once", "success_at_end", "terminated", "diverged" and
        those of the reward terms, e.g. "reward_control".
        """
        arrays = self._per_episode()
        return {
            "return": arrays.pop("returns"),
            "length": arrays.pop("lengths"),
            **arrays,
            **self.reward_terms,
        }

    def metric(self, name: str) -> NDArray[Any]:
        """A metric of every episode (R, T, K).

        Args:
            name: One of `metrics`.

        Raises:
            ValueError: If there is no such metric.
        """
        known = self.metrics
        if name not in known:
            raise ValueError(f"metric must be one of {', '.join(known)}, got {name!r}")
        return known[name]

    def _per_episode(self) -> dict[str, NDArray[Any]]:
        arrays = {name: getattr(self, name) for name in _PER_EPISODE}
        return {name: array for name, array in arrays.items() if array is not None}

    def with_references(self, reports: Mapping[str, Report]) -> Report:
        """A copy of the report with the scores of other agents on the same tasks, e.g. of an oracle.

        Args:
            reports: Reports by name, e.g. what `reference_reports` returns.

        Raises:
            ValueError: If a reference was not run on the same tasks, seeds and environment.
        """
        for name, other in reports.items():
            for what, mine, its in (
                ("family", self.family, other.family),
                ("tasks", self.tasks, other.tasks),
                ("seeds", self.protocol.seeds, other.protocol.seeds),
                (
                    "environment arguments",
                    self.provenance.env_arguments,
                    other.provenance.env_arguments,
                ),
            ):
                if mine != its:
                    raise ValueError(f"reference {name} must have the same {what} as the report")
        scores = {name: other.scores for name, other in reports.items()}
        return dataclasses.replace(self, references={**self.references, **scores})

    def normalised_scores(self, low: str = "zero", high: str = "oracle") -> NDArray[np.float64]:
        """Scores (R, T) as fractions of the gap between two references.

        Args:
            low: Name of the reference that counts as 0. It and `high` are averaged over seeds.
            high: Name of the reference that counts as 1.

        Raises:
            ValueError: If a reference is missing, or `high` is not better than `low` on every task.
        """
        for name in (low, high):
            if name not in self.references:
                raise ValueError(
                    f"normalised scores need the reference {name!r}; the report has "
                    f"{', '.join(self.references) or 'none'}"
                )
        bottom, top = (self.references[name].mean(axis=0) for name in (low, high))
        return np.asarray(normalised(self.scores, bottom, top))

    def condense(self) -> Report:
        """A copy in which the episodes between two updates are equal to their mean.

        They are samples of one policy. Scores, curves and the rise stay the same, and the file of the
        report is smaller by the factor `episodes_per_update`.
        """
        size = self.protocol.episodes_per_update

        def mean(array: NDArray[Any]) -> NDArray[np.float64]:
            blocks = array.reshape(*array.shape[:2], -1, size).mean(axis=-1)
            return np.asarray(np.repeat(blocks, size, axis=-1), np.float64)

        if self.protocol.num_episodes % size:
            raise ValueError("the scored episodes of a condensed report must be whole batches of episodes")
        changes: dict[str, Any] = {name: mean(array) for name, array in self._per_episode().items()}
        terms = {name: mean(array) for name, array in self.reward_terms.items()}
        return dataclasses.replace(self, **changes, reward_terms=terms, condensed=True)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values; of a condensed report, each mean once."""
        step = self.protocol.episodes_per_update if self.condensed else 1
        arrays = {name: array[..., ::step].tolist() for name, array in self._per_episode().items()}
        return {
            "format": _FORMAT,
            "agent": self.agent,
            "family": self.family,
            "protocol": self.protocol.to_dict(),
            "wall_time": self.wall_time,
            "provenance": self.provenance.to_dict(),
            "tasks": list(self.tasks),
            "references": {name: array.tolist() for name, array in self.references.items()},
            **{name: arrays.get(name) for name in _PER_EPISODE},
            "reward_terms": {name: array[..., ::step].tolist() for name, array in self.reward_terms.items()},
            "condensed": self.condensed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Restores a report from `to_dict`.

        Raises:
            ValueError: If the values are not a report of this format, or are inconsistent.
        """
        if values.get("format") != _FORMAT:
            raise ValueError(f"a report has format {_FORMAT!r}, got {values.get('format')!r}")
        values = {"condensed": False, **values}
        expected = {"format", *(field.name for field in dataclasses.fields(cls))}
        if odd := sorted(expected ^ set(values)):
            raise ValueError(f"fields missing from a report, or unknown in it: {', '.join(odd)}")

        for name, kind in _KINDS.items():
            if not isinstance(values[name], kind) or (kind is not bool and isinstance(values[name], bool)):
                raise ValueError(f"{name} of a report must not be {values[name]!r:.100}")
        for i, task in enumerate(values["tasks"]):
            if not isinstance(task, dict):
                raise ValueError(f"task {i} of a report must be an object, got {task!r:.100}")
        protocol, condensed = Protocol.from_dict(values["protocol"]), values["condensed"]
        step = protocol.episodes_per_update if condensed else 1
        shape = (len(protocol.seeds), len(values["tasks"]), protocol.num_episodes // step)
        if math.prod(shape) * step > MOST_EPISODES:
            raise ValueError(f"a report has at most {MOST_EPISODES:,} episodes")

        def episodes(name: str, value: Any, kind: Any) -> NDArray[Any]:
            array = _array(name, value, np.float64 if condensed else kind)
            if array.shape != shape:
                raise ValueError(f"{name} of a report must have shape {shape}, got {array.shape}")
            return np.repeat(array, step, axis=-1)

        arrays: dict[str, Any] = {}
        for name, kind in _PER_EPISODE.items():
            if values[name] is None and name != "success_at_end":
                raise ValueError(f"{name} of a report must not be null; only success_at_end may be")
            arrays[name] = None if values[name] is None else episodes(name, values[name], kind)
        terms, references = values["reward_terms"], values["references"]
        return cls(
            agent=values["agent"],
            family=values["family"],
            protocol=protocol,
            wall_time=values["wall_time"],
            provenance=Provenance(**values["provenance"]),
            tasks=tuple(values["tasks"]),
            references={name: _array(name, array, np.float64) for name, array in references.items()},
            reward_terms={name: episodes(name, array, np.float64) for name, array in terms.items()},
            condensed=condensed,
            **arrays,
        )

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a JSON file, completely or not at all."""
        text = readable_json(self.to_dict()) + "\n"
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Report:
        """Read a report that `to_json` wrote.

        Raises:
            ValueError: If the file does not contain a report.
        """
        file = Path(path)
        try:
            if not file.is_file():
                raise ValueError("it is missing or not a file")  # a pipe or a device would be read for ever
            if file.stat().st_size > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)} does not contain a report: {error}") from error
