"""Adapting pre-trained multi-task agents to new tasks, and what it earns along the episodes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.common.threads import torch_threads
from metarl_agents.iwpa.agent import AdaptationAgent, Pretrained
from metarl_agents.iwpa.config import AdaptationConfig, adaptation_config
from metarl_agents.priors.config import MultiTaskConfig
from metarl_agents.run.checkpoint import digest
from metarl_agents.run.directory import read_description, write_json
from metarl_agents.run.evaluate import load_algorithm
from metarl_agents.run.monitor import environment_arguments
from metarl_envs import evaluation
from metarl_envs.files import file_name

#: The protocol whose number of episodes and seeds can be changed.
PROTOCOL = evaluation.PROTOCOLS["iwpa"]
#: Episodes whose mean return is shown at every point of a curve.
WINDOW = PROTOCOL.scored_episodes


def adapt_protocol(
    split: str, episodes: int, seeds: Sequence[int] | None, num_tasks: int | None
) -> evaluation.Protocol:
    """The protocol `iwpa` with another number of episodes, of which the last three are scored.

    Raises:
        ConfigError: when there are too few episodes.
    """
    scored = PROTOCOL.scored_episodes
    if episodes < scored:
        raise ConfigError(f"episodes must be at least {scored}, the number of scored ones, not {episodes}")
    return dataclasses.replace(
        PROTOCOL,
        split=split,
        adaptation_episodes=episodes - scored,
        seeds=PROTOCOL.seeds if seeds is None else tuple(seeds),
        num_tasks=num_tasks,
    )


def load_adaptation(
    run_dir: str | Path, config: AdaptationConfig, *, device: str = "cpu"
) -> tuple[AdaptationAgent, dict[str, Any]]:
    """The agent that adapts what a run has learned, and the run's description.

    Only the parts that the variant uses are taken from the run.

    Args:
        run_dir: directory of a run of a multi-task agent.
        config: the settings.
        device: device of the networks.

    Raises:
        RunError: when the directory is not a run.
        CheckpointError: when it has no checkpoint, or a damaged one.
        ConfigError: when the run has not learned what the variant needs.
    """
    folder = Path(run_dir)
    description, run_config = read_description(folder)
    name, parts = description["agent"], config.parts
    if not isinstance(run_config, MultiTaskConfig):
        raise ConfigError(
            f"{folder} is a run of {name}; only multi-task agents can be adapted, e.g. distral or iwpl"
        )
    algorithm, context, path = load_algorithm(folder, description, run_config, device)
    networks = algorithm.policy.networks
    if parts.prior and networks.prior is None:
        raise ConfigError(f"the variant {config.variant!r} needs a behaviour prior, and {name} has none")
    if parts.critic == "features" and not run_config.shared_q:
        raise ConfigError(
            f"the variant {config.variant!r} needs a critic of shared features: pre-train with "
            "--set shared_q=true, or adapt with the variant iw, distral, scratch or prior"
        )
    pretrained = Pretrained(
        prior=networks.prior if parts.prior else None,
        features=networks.critic if parts.critic == "features" else None,
        hidden=run_config.hidden,
        critic_hidden=run_config.critic_hidden,
        std=run_config.std,
        gamma=run_config.gamma,
        device=context.device,
    )
    return AdaptationAgent(pretrained, config), {
        **description,
        "weights": digest(path / "weights.safetensors"),
    }


def adapt_run(
    run_dir: str | Path,
    *,
    variant: str = "iwpa",
    preset: str = "fast",
    split: str = "test",
    episodes: int = PROTOCOL.num_episodes,
    seeds: Sequence[int] | None = None,
    num_tasks: int | None = None,
    references: bool = True,
    device: str = "cpu",
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    threads: int = 1,
) -> evaluation.Report:
    """Adapts a run's agent to the tasks of a split and writes `report_<split>_iwpa_<variant>.json` beside it.

    Overrides become part of the file's name. What was learned in each episode is written to
    `adaptation_<split>_iwpa_<variant>.json`. An interrupted adaptation continues when it is called again with
    the same arguments, and the report of a finished one is read from its file.

    Args:
        run_dir: directory of a run of a multi-task agent.
        variant: see `metarl_agents.iwpa.config.VARIANTS`.
        preset: preset of the settings: "fast" or "paper".
        split: tasks to adapt to.
        episodes: number of episodes of a trial.
        seeds: seeds of the trials, instead of the protocol's.
        num_tasks: number of tasks, from the first on; all tasks of the split by default.
        references: whether to add the zero-action, random and scripted references.
        device: device of the networks.
        overrides: `key=value` texts that change the settings.
        progress: called with the numbers of finished and of all episodes.
        threads: threads of PyTorch and of the simulator.

    Raises:
        RunError: when the directory is not a run.
        CheckpointError: when it has no usable checkpoint.
        ConfigError: for unknown settings, or when the run has not learned what the variant needs.
    """
    folder, changes = Path(run_dir), parse_overrides(overrides)
    _, run_config = read_description(folder)
    protocol = adapt_protocol(split, episodes, seeds, num_tasks)
    family = read_description(folder)[0]["env_id"]
    config = adaptation_config(family, preset, {"variant": variant} | changes)
    stem = adaptation_stem(split, config.variant, changes)
    with torch_threads(threads):
        agent, description = load_adaptation(folder, config, device=device)
        arguments = environment_arguments(run_config, threads)
        identity = {
            "protocol": protocol.to_dict(),
            "settings": config.to_dict(),
            "weights": description["weights"],
            "references": references,
            "torch": torch.__version__,
        }
        record = folder / f"adaptation_{stem}.json"
        if record.exists() and json.loads(record.read_text(encoding="utf-8"))["identity"] == identity:
            return evaluation.Report.from_json(folder / f"report_{stem}.json")
        unfinished = evaluation.Unfinished(folder / f"unfinished_{stem}.npz", identity)
        report = evaluation.evaluate(
            agent,
            family,
            protocol,
            env_arguments=arguments,
            progress=progress,
            agent_name=config.variant,
            unfinished=unfinished,
        )
        if references:
            others = evaluation.reference_reports(family, protocol, env_arguments=arguments)
            report = report.with_references(others)
    report.to_json(folder / f"report_{stem}.json")
    evaluation.plot_adaptation(report, folder / f"report_{stem}.png", window=WINDOW)
    # Last, because it says that the report is complete.
    found = {"identity": identity, "pretraining": description["agent"], "episodes": agent.history}
    write_json(record, found)
    return report


def adaptation_stem(split: str, variant: str, changes: Mapping[str, str]) -> str:
    """The common part of the names of an adaptation's files."""
    texts = (f"{key}-{value}" for key, value in sorted(changes.items()) if key != "variant")
    return file_name("_".join((split, "iwpa", variant, *texts)))
