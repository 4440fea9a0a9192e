"""An unfinished evaluation in a file, from which it continues bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl_envs.evaluation.episode import Episode
from metarl_envs.files import atomic_path

#: Seconds between two writes. What is lost by an interruption is computed again.
INTERVAL = 10.0
_FORMAT = "metarl-envs unfinished evaluation 1"


class Unfinished:
    """Saves the state of an evaluation between episodes, and restores it.

    The agent must have `get_state() -> (arrays, values)`, values that JSON supports, and
    `set_state(arrays, values)`, which is called after `begin_trial`.

    Args:
        path: The file (`.npz`); it is removed when the evaluation is complete.
        identity: What the evaluation is of, as JSON values. A file with another identity is refused.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity))
        self._saved_at = time.monotonic()
        self._arrays: dict[str, NDArray[Any]] = {}
        self._values: dict[str, Any] = {}
        if not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            values = json.loads(str(arrays.pop("json")))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{self.path} is not an unfinished evaluation; remove it") from error
        if values.get("format") != _FORMAT or values.get("identity") != self.identity:
            raise ValueError(
                f"{self.path} is of an evaluation with other settings; finish that one with the same "
                "command, or remove the file"
            )
        self._arrays, self._values = arrays, values

    def episodes(self) -> list[list[Episode]]:
        """The recorded episodes of each trial; the last trial may lack some."""
        return [[_episode(values) for values in trial] for trial in self._values.get("episodes", [])]

    def restore(self, env: Any, agent: Any) -> None:
        """Sets environment and agent to the saved state, after `begin_trial`."""
        env.set_state(_joined("env", self._arrays, self._values["env"]))
        agent.set_state(_part("agent", self._arrays), self._values["agent"])

    def save(self, trials: list[list[Episode]], env: Any, agent: Any) -> None:
        """Saves the state after an episode, unless the last time was a moment ago."""
        if time.monotonic() - self._saved_at < INTERVAL:
            return
        env_state = env.get_state()
        arrays, values = agent.get_state()
        arrays = {f"agent.{name}": value for name, value in arrays.items()}
        arrays |= {f"env.{k}": v for k, v in env_state.items() if isinstance(v, np.ndarray)}
        text = json.dumps(
            {
                "format": _FORMAT,
                "identity": self.identity,
                "episodes": [[_plain(episode) for episode in trial] for trial in trials],
                "env": {k: v for k, v in env_state.items() if not isinstance(v, np.ndarray)},
                "agent": values,
            }
        )
        with atomic_path(self.path) as temporary:
            np.savez(temporary, allow_pickle=False, json=np.array(text), **arrays)
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Removes the file of a complete evaluation."""
        self.path.unlink(missing_ok=True)


def _part(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    start = f"{prefix}."
    return {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}


def _joined(prefix: str, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> dict[str, Any]:
    return {**_part(prefix, arrays), **values}


def _plain(episode: Episode) -> dict[str, Any]:
    values = dataclasses.asdict(episode)
    terms = {name: array.tolist() for name, array in values.pop("terms").items()}
    return {"terms": terms, **{name: array.tolist() for name, array in values.items()}}


def _episode(values: Mapping[str, Any]) -> Episode:
    arrays = {name: np.array(value) for name, value in values.items() if name != "terms"}
    return Episode(terms={name: np.array(v) for name, v in values["terms"].items()}, **arrays)
