"""The specification of a sweep: a TOML file whose groups are products of agents, families and seeds.

Keys at the top of the file hold for every group that does not set them:

    agents = ["pearl", "mql"]
    families = ["MetaHalfCheetah-Vel-v0"]
    seeds = [0, 1, 2]

    [[groups]]
    presets = ["fast"]

    [[groups]]
    presets = ["paper"]
    overrides = [{ learning_rate = 1e-3 }, { learning_rate = 3e-4 }]

A file without `[[groups]]` is one group.
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import metarl_envs
from metarl_agents.common.config import ConfigError, RunConfig, unknown
from metarl_agents.registry import find_agent
from metarl_agents.run.monitor import check_evaluations, find_protocol
from metarl_agents.sweep.job import Evaluation, Job, make_job

#: Keys of a group: their defaults, and what they mean.
KEYS: dict[str, tuple[Any, str]] = {
    "agents": (None, "names of agents"),
    "families": (None, "ids of families"),
    "presets": (["fast"], "names of presets"),
    "seeds": ([0, 1, 2], "training seeds"),
    "overrides": ([{}], "a table of configuration values that differ from the preset, or a list of them"),
    "protocols": ([], "names of evaluation protocols; the agent's own if there is none"),
    "splits": (["test"], "splits on which finished runs are evaluated; none for no evaluation"),
    "trial_seeds": ([0, 1, 2], "seeds of the trials of an evaluation"),
    "tasks": (None, "number of tasks of an evaluation, from the first on; all of the split if not given"),
    "device": ("cpu", "device of the networks"),
}
_TEXTS = ("agents", "families", "presets", "protocols", "splits")
_NUMBERS = ("seeds", "trial_seeds")
_MAY_BE_EMPTY = ("protocols", "splits")


def read_spec(path: Path) -> list[Job]:
    """The jobs of a specification, in the order of the file.

    In a group, the families come first, then the agents, the presets, the overrides and, last, the
    seeds. A job that occurs twice is listed once, with the evaluations of both.

    Raises:
        ConfigError: for a file that cannot be read, and for an unknown or a bad value; the message names
            file, group and key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a specification of a sweep: {error}") from error
    groups = values.pop("groups", [{}])
    if not isinstance(groups, list) or not groups or not all(isinstance(g, dict) for g in groups):
        raise ConfigError(f"{path}: groups must be written as [[groups]]")
    jobs: dict[str, Job] = {}
    for number, group in enumerate(groups, start=1):
        where = f"{path}, group {number}"
        try:
            for job in _group_jobs(_checked({**values, **group})):
                same = jobs.setdefault(job.key, job)
                evaluations = dict.fromkeys((*same.evaluations, *job.evaluations))
                jobs[job.key] = dataclasses.replace(same, evaluations=tuple(evaluations))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return list(jobs.values())


def _checked(group: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group with defaults.

    Raises:
        ConfigError: for an unknown key, a missing one, or a value of another type.
    """
    for key in group:
        if key not in KEYS:
            raise ConfigError(unknown("key", key, KEYS))
    values = {key: group.get(key, default) for key, (default, _) in KEYS.items()}
    if isinstance(values["overrides"], dict):
        values["overrides"] = [values["overrides"]]
    for key in (*_TEXTS, *_NUMBERS, "overrides"):
        kind = str if key in _TEXTS else int if key in _NUMBERS else dict
        value = values[key]
        good = isinstance(value, list) and all(isinstance(v, kind) and v is not True for v in value)
        if not good or (not value and key not in _MAY_BE_EMPTY):
            raise ConfigError(f"{key} must be a list: {KEYS[key][1]}; got {value!r}")
        if any(value.count(entry) > 1 for entry in value):
            raise ConfigError(f"{key} contains an entry twice: {value!r}")
        if key in _NUMBERS and min(value) < 0:
            raise ConfigError(f"{key} must not be negative, got {value!r}")
    if not isinstance(values["device"], str):
        raise ConfigError(f"device must be a text such as 'cpu' or 'cuda', got {values['device']!r}")
    tasks = values["tasks"]
    if tasks is not None and (not isinstance(tasks, int) or isinstance(tasks, bool) or tasks < 1):
        raise ConfigError(f"tasks must be a whole number of at least 1, got {tasks!r}")
    return values


def _group_jobs(values: Mapping[str, Any]) -> Iterator[Job]:
    keys = ("families", "agents", "presets", "overrides", "seeds")
    for env_id, agent, preset, overrides, seed in itertools.product(*(values[key] for key in keys)):
        texts = {key: _text(key, value) for key, value in overrides.items()}
        family = metarl_envs.family(env_id)
        config = find_agent(agent).config(env_id, preset, texts)
        check_evaluations(config, family)
        evaluations = _evaluations(values, config, family)
        yield make_job(agent, env_id, preset, seed, texts, values["device"], evaluations, config)


def _evaluations(
    values: Mapping[str, Any], config: RunConfig, family: metarl_envs.Family
) -> tuple[Evaluation, ...]:
    protocols = values["protocols"] or config.evaluation_protocols[:1]
    found = []
    for split, protocol in itertools.product(values["splits"], protocols):
        find_protocol(protocol)
        available, tasks = family.split(split).count, values["tasks"]
        if tasks is not None and tasks > available:
            raise ConfigError(
                f"tasks must be at most {available}, the size of split {split!r} of {family.id}"
            )
        found.append(Evaluation(protocol, split, tuple(values["trial_seeds"]), tasks))
    return tuple(found)


def _text(key: str, value: Any) -> str:
    """A value of TOML as `--set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(_text(key, entry) for entry in value)
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"the override {key} must be a number, a text, true, false or a list, got {value!r}")
