"""Evaluating the agents of runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import metarl_envs
from metarl_agents.common.config import ConfigError, RunConfig, parse_overrides
from metarl_agents.common.context import Context
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.checkpoint import (
    STATE,
    CheckpointError,
    digest,
    fitting,
    newest_checkpoint,
    read_checkpoint,
    read_weights,
    unprefixed,
)
from metarl_agents.run.directory import check_device, read_description, write_json
from metarl_agents.run.monitor import diagnostics, environment_arguments, find_protocol
from metarl_envs import evaluation
from metarl_envs.files import file_name


def load_agent(run_dir: str | Path, *, device: str = "cpu", overrides: Sequence[str] = ()) -> Any:
    """The agent of a run's newest checkpoint, for `metarl_envs.evaluation.evaluate`.

    Args:
        run_dir: the run's directory.
        device: device of the networks.
        overrides: `key=value` texts that change how the agent adapts; see `evaluation_keys` of its
            configuration.

    Raises:
        RunError: when the directory is not a run.
        CheckpointError: when it has no checkpoint, or a damaged one.
        ConfigError: for a key that an evaluation cannot change, or a bad value.
    """
    folder = Path(run_dir)
    description, config = _read_for_evaluation(folder, overrides)
    algorithm, context, path = load_algorithm(folder, description, config, device)
    if not algorithm.needs_replay:
        return algorithm.trial_agent()
    buffer = algorithm.replay_buffer(config, context)
    with fitting(path):
        buffer.load_state_arrays(unprefixed("buffer", read_checkpoint(path).arrays))
    return algorithm.trial_agent(buffer)


def load_algorithm(
    folder: Path, description: Mapping[str, Any], config: RunConfig, device: str
) -> tuple[Any, Context, Path]:
    """The algorithm of a run with the weights of its newest checkpoint; its context, and the checkpoint.

    Args:
        folder: the run's directory.
        description: what `read_description` returned.
        config: the configuration to build it with.
        device: device of the networks.

    Raises:
        CheckpointError: when there is no checkpoint, or a damaged one.
    """
    path = newest_checkpoint(folder / "checkpoints")
    if path is None:
        raise CheckpointError(f"{folder} has no checkpoint yet")
    check_device(device)
    algorithm_class = find_agent(description["agent"]).load()
    env = metarl_envs.MetaVectorEnv(description["env_id"], 1, observe_task=algorithm_class.observe_task)
    context = Context.of(env, seed=description["seed"], device=torch.device(device))
    env.close()
    algorithm = algorithm_class.from_config(config, context)
    weights = read_weights(path)
    with fitting(path):
        algorithm.load_network_state(weights)
    return algorithm, context, path


def _read_for_evaluation(folder: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], RunConfig]:
    """The description of a run, and its configuration with the overrides of the evaluation."""
    description, config = read_description(folder)
    changes = parse_overrides(overrides)
    for key in changes:
        if key not in config.evaluation_keys:
            known = ", ".join(config.evaluation_keys) or "none"
            raise ConfigError(
                f"an evaluation of {description['agent']} cannot change {key!r}; it can change: {known}"
            )
    return description, config.replace(changes)


def evaluate_run(
    run_dir: str | Path,
    *,
    split: str = "test",
    protocol: str | evaluation.Protocol | None = None,
    seeds: Sequence[int] | None = None,
    num_tasks: int | None = None,
    references: bool = True,
    device: str = "cpu",
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    threads: int = 1,
) -> evaluation.Report:
    """Evaluates a run's agent and writes `report_<split>_<protocol>.json` and `.png` beside it.

    Overrides become part of the file names. Diagnostics of the agent's adaptation, if it has any, are
    written to `adaptation_<split>_<protocol>.json`. If the agent's state can be saved (slbo, whose adaptation
    is long), an interrupted evaluation continues when it is called again with the same arguments.

    Args:
        run_dir: the run's directory.
        split: tasks to evaluate on.
        protocol: a protocol, or the name of one in `metarl_envs.evaluation.PROTOCOLS`; by default, the first
            of the run's `evaluation_protocols`.
        seeds: seeds of the trials, instead of the protocol's.
        num_tasks: number of tasks, from the first on; all tasks of the split by default.
        references: whether to add the zero-action, random and scripted references.
        device: device of the networks.
        overrides: `key=value` texts that change how the agent adapts; see `load_agent`.
        progress: called with the numbers of finished and of all episodes.
        say: called with messages of an agent about its adaptation.
        threads: threads of PyTorch and of the simulator.

    Raises:
        ConfigError: for an unknown protocol, or an override that an evaluation cannot make.
        RunError: when the directory is not a run.
        CheckpointError: when it has no usable checkpoint.
    """
    folder = Path(run_dir)
    description, config = _read_for_evaluation(folder, overrides)
    chosen = find_protocol(config.evaluation_protocols[0] if protocol is None else protocol)
    changes: dict[str, Any] = {"split": split}
    if seeds is not None:
        changes["seeds"] = tuple(seeds)
    if num_tasks is not None:
        changes["num_tasks"] = num_tasks
    chosen = evaluation.Protocol.from_dict(chosen.to_dict() | changes)
    family, arguments = description["env_id"], environment_arguments(config, threads)
    stem = report_stem(split, chosen, overrides)
    with torch_threads(threads):
        agent = load_agent(folder, device=device, overrides=overrides)
        if say is not None and hasattr(agent, "say"):
            agent.say = say
        unfinished = None
        if hasattr(agent, "get_state"):
            # The state has the digests of the other files.
            path = newest_checkpoint(folder / "checkpoints")
            assert path is not None
            identity = {
                "config": config.to_dict(),
                "protocol": chosen.to_dict(),
                "checkpoint": digest(path / STATE),
                "torch": torch.__version__,
            }
            unfinished = evaluation.Unfinished(folder / f"unfinished_{stem}.npz", identity)
        report = evaluation.evaluate(
            agent,
            family,
            chosen,
            env_arguments=arguments,
            progress=progress,
            agent_name=description["agent"],
            unfinished=unfinished,
        )
        if references:
            others = evaluation.reference_reports(family, chosen, env_arguments=arguments)
            report = report.with_references(others)
    report.to_json(folder / f"report_{stem}.json")
    evaluation.plot_adaptation(report, folder / f"report_{stem}.png")
    if records := diagnostics(agent):
        write_json(folder / f"adaptation_{stem}.json", {"records": records})
    return report


def report_stem(split: str, protocol: evaluation.Protocol, overrides: Sequence[str] = ()) -> str:
    """The common part of the names of an evaluation's files."""
    changes = (f"{key}-{value}" for key, value in sorted(parse_overrides(overrides).items()))
    return file_name("_".join((split, protocol.name or "protocol", *changes)))
