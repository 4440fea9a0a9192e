"""One job of a sweep: a run with its evaluations, in a directory of its own."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import metarl_envs
from metarl_agents.common.config import ConfigError, RunConfig
from metarl_agents.registry import find_agent
from metarl_agents.run.directory import versions, write_json
from metarl_envs.files import file_name

#: File names in a job's directory.
JOB, STATE, LOG, LOCK, RUN = "job.json", "state.json", "log.txt", "lock", "run"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a finished run.

    Attributes:
        protocol: name of the protocol.
        split: tasks to evaluate on.
        seeds: seeds of the trials.
        tasks: number of tasks, from the first on; all of the split if None.
    """

    protocol: str
    split: str
    seeds: tuple[int, ...]
    tasks: int | None = None

    @property
    def report(self) -> str:
        """Name of the report in the run's directory."""
        return f"report_{self.split}_{self.protocol}.json"


@dataclass(frozen=True)
class Job:
    """A run and its evaluations.

    Attributes:
        agent: name of the agent.
        env_id: id of the family.
        preset: name of the preset.
        seed: training seed.
        overrides: configuration values that differ from the preset, as texts.
        device: device of the networks.
        config: the complete configuration that results from preset and overrides.
        evaluations: evaluations of the finished run. They do not influence the run, so they are not a
            part of the job's identity.
    """

    agent: str
    env_id: str
    preset: str
    seed: int
    overrides: Mapping[str, str]
    device: str
    config: Mapping[str, Any]
    evaluations: tuple[Evaluation, ...]

    @property
    def key(self) -> str:
        """SHA-256 of everything that decides the result of the run.

        This is the agent, the family with the checksums of its training tasks and its model, the
        configuration without its `bookkeeping` fields, the seed and the device. Names of presets are not
        a part of it: equal configurations are the same job. Versions of packages are not a part either;
        `versions.json` of the run records them.
        """
        skipped = find_agent(self.agent).load().config_class.bookkeeping
        identity = {
            "agent": self.agent,
            "env_id": self.env_id,
            "checksums": family_checksums(self.env_id),
            "config": {k: v for k, v in self.config.items() if k not in skipped},
            "seed": self.seed,
            "device": self.device,
        }
        return digest(identity)

    @property
    def name(self) -> str:
        """Name of the job's directory: readable, and different for different jobs."""
        return f"{self.agent}-{self.env_id}-{self.preset}-seed{self.seed}-{self.key[:10]}"

    @property
    def command(self) -> str:
        """The `metarl train` command of the same run."""
        changes = [word for key, value in self.overrides.items() for word in ("--set", f"{key}={value}")]
        words = ["metarl", "train", self.agent, self.env_id, "--preset", self.preset]
        device = [] if self.device == "cpu" else ["--device", self.device]
        return shlex.join([*words, "--seed", str(self.seed), *device, *changes])

    def write(self, folder: Path) -> Path:
        """Writes `job.json` into the job's directory inside a sweep's directory, and returns the former."""
        path = folder / self.name
        write_json(path / JOB, {**asdict(self), "key": self.key, "command": self.command})
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """Reads a job's directory.

        Raises:
            ConfigError: when it is not the directory of a job.
        """
        try:
            values = json.loads((path / JOB).read_text(encoding="utf-8"))
            del values["key"], values["command"]
            evaluations = tuple(
                Evaluation(**{**evaluation, "seeds": tuple(evaluation["seeds"])})
                for evaluation in values.pop("evaluations")
            )
            job = cls(**values, evaluations=evaluations)
            for name in (job.agent, job.env_id, job.preset, *(e.report for e in evaluations)):
                if file_name(name) != name:  # they are parts of paths
                    raise ValueError(f"{name!r} cannot be the name of a file")
            return job
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is not the directory of a job: {error}") from error


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values; the order of keys does not matter."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def family_checksums(env_id: str) -> Mapping[str, Any]:
    """Checksums of a family's training tasks and of its model."""
    found = versions(metarl_envs.family(env_id))
    return {"train": found["tables"]["train"], "model": found["model"]}


def make_job(
    agent: str,
    env_id: str,
    preset: str,
    seed: int,
    overrides: Mapping[str, str],
    device: str,
    evaluations: tuple[Evaluation, ...] = (),
    config: RunConfig | None = None,
) -> Job:
    """A job whose configuration comes from the agent's presets, unless it is given.

    Raises:
        ConfigError: for an unknown agent, preset or key, or a bad value.
    """
    if config is None:
        config = find_agent(agent).config(env_id, preset, overrides)
    # As JSON will give it back: lists instead of tuples.
    values = json.loads(json.dumps(config.to_dict()))
    return Job(agent, env_id, preset, seed, dict(overrides), device, values, evaluations)
