"""Training runs: a directory that holds everything, and can be resumed and evaluated."""

import json
import platform
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import metarl_envs
from metarl_agents.assembly import Assembly, assemble, replay_buffer, torch_threads
from metarl_agents.checkpoint import (
    CheckpointError,
    newest_checkpoint,
    read_checkpoint,
    read_weights,
    unprefixed,
    write_checkpoint,
)
from metarl_agents.config import ConfigError, OffPolicyConfig, load_config, parse_overrides
from metarl_agents.logging import TrainingLogger
from metarl_agents.monitoring import Monitor, check_evaluations, diagnostics, find_protocol
from metarl_agents.progress import RunProgress
from metarl_agents.registry import find_agent
from metarl_envs import evaluation
from metarl_envs.files import atomic_path

#: Distributions whose versions decide the numbers of a run.
PACKAGES = (
    "metarl-agents", "metarl-envs", "torch", "tianshou", "numpy", "gymnasium", "mujoco",
    "safetensors",
)  # fmt: skip


class RunError(RuntimeError):
    """A run directory cannot be used as asked; the message says why."""


@dataclass(frozen=True)
class RunResult:
    """How a call of `train` or `resume` ended.

    Attributes:
        run_dir: the run's directory.
        finished: false when the run was interrupted; `resume` goes on.
        iterations: iterations done, earlier calls included.
        env_steps: environment steps done, earlier calls included.
        gradient_steps: gradient steps done, earlier calls included.
        seconds: wall-clock seconds of this call.
    """

    run_dir: Path
    finished: bool
    iterations: int
    env_steps: int
    gradient_steps: int
    seconds: float


def train(
    agent: str,
    env_id: str,
    *,
    preset: str = "fast",
    seed: int = 0,
    steps: int | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
    threads: int = 1,
) -> RunResult:
    """Trains an agent on a family and leaves a run directory.

    Args:
        agent: name of the agent, see `metarl_agents.AGENTS`.
        env_id: id of the family, e.g. "MetaPoint-Goal-v0".
        preset: "fast", which learns something real on two CPU cores, or "paper".
        seed: decides every random choice of the run.
        steps: environment steps in place of the preset's; whole iterations are run.
        device: where networks live, e.g. "cpu" or "cuda".
        out: the run's directory, new or empty; by default `runs/<agent>/<env_id>/<preset>-<seed>`.
        overrides: `key=value` texts that change the configuration.
        progress: whether to show progress; the run's log file is written in any case.
        threads: threads of PyTorch and of the simulator.

    Returns:
        What was done. After SIGINT or SIGTERM the running iteration is finished and saved, and
        `finished` is false; a second signal stops at the checkpoint before.

    Raises:
        ConfigError: for unknown names or values out of range.
        RunError: when the directory is not empty.
        ValueError: for an unknown family.
    """
    overriding = parse_overrides(overrides)
    if steps is not None:
        overriding["total_env_steps"] = str(steps)
    config_class = find_agent(agent).load().config_class
    config = load_config(config_class, agent, env_id, preset, overriding)
    check_device(device)
    family = metarl_envs.family(env_id)
    check_evaluations(config, family)
    folder = Path(out) if out is not None else Path("runs") / agent / env_id / f"{preset}-{seed}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(
            f"{folder} is not empty: give another directory, or continue the run in it with resume"
        )
    description = {
        "agent": agent,
        "env_id": env_id,
        "preset": preset,
        "overrides": overriding,
        "seed": seed,
        "device": device,
        "threads": threads,
        # Without the folder the program lies in, which means nothing on another machine.
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": config.to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "versions.json", versions(family))
    # Last, because its presence is what makes a directory a run.
    write_json(folder / "config.json", description)
    return _run(folder, description, config, progress)


def resume(run_dir: str | Path, *, progress: bool = True) -> RunResult:
    """Continues an interrupted run from its newest checkpoint, or from the start without one.

    On CPU, with the versions the run was started with, it ends with the same weights and the same
    `metrics.jsonl` as if it had never been interrupted.

    Raises:
        RunError: when the directory is not a run.
        CheckpointError: when the newest checkpoint is damaged.
    """
    folder = Path(run_dir)
    description, config = read_description(folder)
    return _run(folder, description, config, progress)


def load_agent(run_dir: str | Path, *, device: str = "cpu", overrides: Sequence[str] = ()) -> Any:
    """The agent of a run's newest checkpoint, for `metarl_envs.evaluation.evaluate`.

    Args:
        run_dir: the run's directory.
        device: where networks live.
        overrides: `key=value` texts that change how the agent adapts; see `evaluation_keys` of its
            configuration.

    Raises:
        RunError: when the directory is not a run.
        CheckpointError: when it has no checkpoint, or a damaged one.
        ConfigError: for a key that an evaluation cannot change, or a bad value.
    """
    folder = Path(run_dir)
    description, config = read_description(folder)
    changes = parse_overrides(overrides)
    for key in changes:
        if key not in config.evaluation_keys:
            known = ", ".join(config.evaluation_keys) or "none"
            raise ConfigError(
                f"an evaluation of {description['agent']} cannot change {key!r}; it can change: {known}"
            )
    config = config.replace(changes)
    path = newest_checkpoint(folder / "checkpoints")
    if path is None:
        raise CheckpointError(f"{folder} has no checkpoint yet")
    check_device(device)
    algorithm_class = find_agent(description["agent"]).load()
    family = metarl_envs.family(description["env_id"])
    env = metarl_envs.MetaVectorEnv(family, 1, observe_task=algorithm_class.observe_task)
    algorithm = algorithm_class.from_config(
        config,
        observation_space=env.single_observation_space,
        action_space=env.single_action_space,
        num_tasks=len(family.tasks("train")),
        seed=description["seed"],
        device=torch.device(device),
    )
    env.close()
    algorithm.load_network_state(read_weights(path))
    if not algorithm_class.needs_replay:
        return algorithm.trial_agent()
    buffer = replay_buffer(
        config,
        len(metarl_envs.family(description["env_id"]).tasks("train")),
        env.single_observation_space,
        env.single_action_space,
        seed=description["seed"],
    )
    buffer.load_state_arrays(unprefixed("buffer", read_checkpoint(path).arrays))
    return algorithm.trial_agent(buffer)


def evaluate_run(
    run_dir: str | Path,
    *,
    split: str = "test",
    protocol: str | evaluation.Protocol = "pearl",
    seeds: Sequence[int] | None = None,
    references: bool = True,
    device: str = "cpu",
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    threads: int = 1,
) -> evaluation.Report:
    """Evaluates a run's agent and writes `report_<split>_<protocol>.json` and `.png` beside it.

    Overrides become part of the files' names. An agent that says what its adaptation did has that
    written to `adaptation_<split>_<protocol>.json`.

    Args:
        run_dir: the run's directory.
        split: tasks to evaluate on.
        protocol: a protocol, or the name of one in `metarl_envs.evaluation.PROTOCOLS`.
        seeds: repetitions in place of the protocol's.
        references: whether to add the zero-action, random and scripted references.
        device: where networks live.
        overrides: `key=value` texts that change how the agent adapts; see `load_agent`.
        progress: called with episodes done and to do.
        threads: threads of PyTorch and of the simulator.

    Raises:
        ConfigError: for an unknown protocol, or an override that an evaluation cannot make.
        RunError: when the directory is not a run.
        CheckpointError: when it has no usable checkpoint.
    """
    folder = Path(run_dir)
    description, _ = read_description(folder)
    chosen = find_protocol(protocol)
    changes: dict[str, Any] = {"split": split}
    if seeds is not None:
        changes["seeds"] = tuple(seeds)
    chosen = evaluation.Protocol.from_dict(chosen.to_dict() | changes)
    family, arguments = description["env_id"], {"num_threads": threads}
    with torch_threads(threads):
        agent = load_agent(folder, device=device, overrides=overrides)
        report = evaluation.evaluate(
            agent,
            family,
            chosen,
            env_arguments=arguments,
            progress=progress,
            agent_name=description["agent"],
        )
        if references:
            others = evaluation.reference_reports(family, chosen, env_arguments=arguments)
            report = report.with_references(others)
    stem = report_stem(split, chosen, overrides)
    report.to_json(folder / f"report_{stem}.json")
    evaluation.plot_adaptation(report, folder / f"report_{stem}.png")
    if records := diagnostics(agent):
        write_json(folder / f"adaptation_{stem}.json", {"records": records})
    return report


def report_stem(split: str, protocol: evaluation.Protocol, overrides: Sequence[str] = ()) -> str:
    """What the names of an evaluation's files have in common."""
    changes = (f"{key}-{value}" for key, value in sorted(parse_overrides(overrides).items()))
    return "_".join((split, protocol.name or "protocol", *changes))


def read_description(folder: Path) -> tuple[dict[str, Any], OffPolicyConfig]:
    """The contents of a run's `config.json`, and the configuration in it.

    Raises:
        RunError: when the directory is not a run.
    """
    try:
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config_class = find_agent(description["agent"]).load().config_class
        return description, config_class().replace(description["config"])
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{folder} is not the directory of a run: {error}") from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes values as readable JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def check_device(device: str) -> None:
    """Fails early and clearly when the device is not there.

    Raises:
        ConfigError: for a device PyTorch does not know or cannot use here.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device!r} cannot be used: {error}") from None


def versions(family: metarl_envs.Family) -> dict[str, Any]:
    """Versions and checksums that the numbers of a run depend on."""
    env = metarl_envs.MetaVectorEnv(family, 1)
    sources = {
        split: evaluation.Provenance.collect(
            family,
            split,
            env_arguments={},
            observe_task=False,
            env=env,
            maker=metarl_envs.MetaVectorEnv,
        )
        for split in family.splits
    }
    env.close()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "tables": {split: source.table_sha256 for split, source in sources.items()},
        "model": sources["train"].model_checksum,
    }


class _Signals:
    """What signals asked for: after the first, stop when the iteration ends."""

    def __init__(self) -> None:
        self.stop = False
        self.on_first: Callable[[], None] = lambda: None

    def handle(self, number: int, frame: Any) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        self.on_first()


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Handles SIGINT and SIGTERM while training; other threads cannot, and leave them alone."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signals.handle) for number in numbers]
    try:
        yield signals
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _run(folder: Path, description: dict[str, Any], config: OffPolicyConfig, progress: bool) -> RunResult:
    threads = description["threads"]
    with _signals() as signals, torch_threads(threads):
        started = time.perf_counter()
        parts = assemble(
            description["agent"],
            description["env_id"],
            config,
            seed=description["seed"],
            device=torch.device(description["device"]),
            threads=threads,
        )
        try:
            return _train(folder, description, parts, signals, progress, started)
        finally:
            parts.env.close()


def _train(
    folder: Path,
    description: dict[str, Any],
    parts: Assembly,
    signals: _Signals,
    progress: bool,
    started: float,
) -> RunResult:
    config, checkpoints = parts.config, folder / "checkpoints"
    position, lines = (0, 0, 0), (0, 0)
    path = newest_checkpoint(checkpoints)
    if path is not None:
        checkpoint = read_checkpoint(path)
        parts.load_state(checkpoint)
        values = checkpoint.values
        position = (values["iteration"], values["env_steps"], values["gradient_steps"])
        lines = (values["metrics_lines"], values["timing_lines"])
    else:
        initial = parts.collector.collect_initial()
        position = (0, initial.n_collected_steps, 0)
    shown = RunProgress(
        folder / "log.txt",
        total=config.total_env_steps,
        done=position[1],
        updates_per_iteration=config.updates_per_iteration,
        shown=progress,
    )
    logger = TrainingLogger(
        folder,
        position=position,
        lines=lines,
        on_iteration=shown.iteration,
        on_update=shown.update_step,
        take_losses=parts.algorithm.means.take,
    )

    monitor = Monitor(
        folder,
        description["env_id"],
        config,
        lambda: load_agent(folder, device=description["device"]),
        iteration=position[0],
        threads=description["threads"],
    )

    def finished() -> bool:
        return logger.env_steps >= config.total_env_steps

    def save_checkpoint(iteration: int, env_steps: int, gradient_steps: int) -> str:
        evaluating = monitor.due(iteration, finished())
        due = iteration % config.checkpoint_every == 0 or finished() or signals.stop or evaluating
        written = save() if due else ""
        if evaluating:
            monitor.evaluate(iteration, env_steps)
        return written

    def save() -> str:
        checkpoint = parts.state()
        checkpoint.values |= {
            "iteration": logger.iteration,
            "env_steps": logger.env_steps,
            "gradient_steps": logger.gradient_steps,
            "metrics_lines": logger.metrics.lines,
            "timing_lines": logger.timing.lines,
        }
        return str(write_checkpoint(checkpoints, logger.iteration, checkpoint))

    signals.on_first = lambda: shown.message(
        "stopping after this iteration; signal again to stop at the last checkpoint"
    )
    try:
        if path is None:
            save()
        elif monitor.due(logger.iteration, finished()):
            monitor.evaluate(logger.iteration, logger.env_steps)
        trainer = parts.algorithm.create_trainer(parts.trainer_params(logger, save_checkpoint))
        trainer.reset(reset_collectors=False)
        while not finished() and not signals.stop:
            trainer.execute_epoch()
    finally:
        logger.finalize()
        shown.close()
    return RunResult(
        run_dir=folder,
        finished=finished(),
        iterations=logger.iteration,
        env_steps=logger.env_steps,
        gradient_steps=logger.gradient_steps,
        seconds=time.perf_counter() - started,
    )
