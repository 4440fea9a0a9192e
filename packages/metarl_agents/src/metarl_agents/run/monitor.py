"""Evaluations during training, which give the test curve of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import metarl_envs
from metarl_agents.common.config import ConfigError, OnPolicyConfig, RunConfig
from metarl_agents.run.metrics import EVALUATION_GLOSSARY
from metarl_envs import evaluation
from metarl_envs.files import atomic_path

FILE = "evaluations.jsonl"


class Monitor:
    """Evaluates the newest checkpoint of a run at regular intervals and records the results.

    Each evaluation loads the agent from the checkpoint. It can therefore not affect the run, and an
    interrupted run has the same curve as an uninterrupted one.

    Args:
        folder: the run's directory.
        env_id: id of the family.
        config: the run's configuration.
        load: loads the agent of the newest checkpoint.
        iteration: iteration to continue from; later records are dropped.
        threads: threads of the simulator.
    """

    def __init__(
        self,
        folder: Path,
        env_id: str,
        config: RunConfig,
        load: Callable[[], Any],
        *,
        iteration: int,
        threads: int,
    ) -> None:
        self.path = folder / FILE
        self.env_id = env_id
        self.every = config.evaluate_every
        self.load = load
        self.arguments = environment_arguments(config, threads)
        self.protocols = [
            evaluation.Protocol.from_dict(
                find_protocol(name).to_dict() | {"split": config.evaluation_split, "seeds": [0]}
            )
            for name in (config.evaluation_protocols if self.every else ())
        ]
        kept = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.records = [r for r in map(json.loads, kept) if r["iteration"] <= iteration]

    def due(self, iteration: int, finished: bool) -> bool:
        """Whether an evaluation is due after this iteration and has not been recorded yet."""
        wanted = self.every and (iteration % self.every == 0 or finished)
        return bool(wanted) and all(r["iteration"] != iteration for r in self.records)

    def evaluate(self, iteration: int, env_steps: int) -> None:
        """Evaluates the newest checkpoint under every protocol, then writes all records."""
        for protocol in self.protocols:
            agent = self.load()
            report = evaluation.evaluate(agent, self.env_id, protocol, env_arguments=self.arguments)
            summary = evaluation.summarise(report)
            record = {
                "iteration": iteration,
                "env_steps": env_steps,
                "protocol": protocol.name,
                "evaluate/return": summary.score.value,
                "evaluate/return_low": summary.score.low,
                "evaluate/return_high": summary.score.high,
                "evaluate/first_return": summary.returns.points()[0].value,
                "evaluate/success": summary.scored_success_once.value,
            }
            if notes := diagnostics(agent):
                for name in notes[0]:
                    record[f"evaluate/{name}"] = float(np.mean([note[name] for note in notes]))
            for name in record:
                if name not in EVALUATION_GLOSSARY:
                    raise KeyError(f"the metric {name!r} is missing from metarl_agents.run.metrics")
            self.records.append(record)
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(r) + "\n" for r in self.records), encoding="utf-8")


def environment_arguments(config: RunConfig, threads: int) -> dict[str, Any]:
    """Arguments of the environments of a run's evaluations: threads and, if it is set, the time limit."""
    arguments = {"num_threads": threads}
    if isinstance(config, OnPolicyConfig) and config.horizon:
        arguments["max_episode_steps"] = config.horizon
    return arguments


def check_evaluations(config: RunConfig, family: metarl_envs.Family) -> None:
    """Raises an error early if the evaluations of a run are not possible.

    Raises:
        ConfigError: for an unknown protocol, or a split the family does not have.
    """
    for name in config.evaluation_protocols:
        find_protocol(name)
    if config.evaluate_every:
        try:
            family.split(config.evaluation_split)
        except ValueError as error:
            raise ConfigError(f"evaluation_split: {error}") from None


def find_protocol(protocol: str | evaluation.Protocol) -> evaluation.Protocol:
    """The protocol itself, or the preset of this name.

    Raises:
        ConfigError: for an unknown name.
    """
    if isinstance(protocol, evaluation.Protocol):
        return protocol
    if protocol not in evaluation.PROTOCOLS:
        known = ", ".join(sorted(evaluation.PROTOCOLS))
        raise ConfigError(f"unknown protocol {protocol!r}. Known: {known}")
    return evaluation.PROTOCOLS[protocol]


def diagnostics(agent: Any) -> list[dict[str, float]]:
    """Diagnostics of the agent's adaptation, one entry per trial and task; empty if it has none."""
    records: list[dict[str, float]] = agent.diagnostics() if hasattr(agent, "diagnostics") else []
    return records
