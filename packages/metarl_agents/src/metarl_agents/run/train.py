"""Training runs. The directory of a run is self-contained, and the run can be resumed."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import metarl_envs
from metarl_agents.actors.ray_pool import actor_pool
from metarl_agents.common.config import ConfigError, RunConfig, parse_overrides, read_config
from metarl_agents.common.matrix_products import choose_products, reason_against_onednn
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.run.checkpoint import set_aside
from metarl_agents.run.directory import (
    FORMAT,
    LOCK,
    RunError,
    changed_versions,
    check_device,
    check_own_files,
    read_description,
    recorded_products,
    this_command,
    versions,
    write_description,
    write_json,
)
from metarl_agents.run.lock import held_run
from metarl_agents.run.monitor import check_evaluations
from metarl_agents.run.session import Session
from metarl_agents.run.signals import handled_signals
from metarl_agents.run.tracker import open_tracker, wandb_identity


@dataclass(frozen=True)
class RunResult:
    """Result of a call of `train` or `resume`.

    Attributes:
        run_dir: the run's directory.
        finished: false if the run was interrupted; `resume` continues it.
        learned: false if the initial steps reached the run's number of steps, so that there was no
            iteration and the agent is untrained.
        iterations: finished iterations, including those of earlier calls.
        env_steps: environment steps, including those of earlier calls.
        gradient_steps: gradient steps, including those of earlier calls.
        seconds: wall-clock seconds of this call.
        nothing_left: whether the run was finished before this call.
    """

    run_dir: Path
    finished: bool
    learned: bool
    iterations: int
    env_steps: int
    gradient_steps: int
    seconds: float
    nothing_left: bool = False


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
    config_file: str | Path | None = None,
    progress: bool = True,
    threads: int = 1,
    actors: int = 0,
    command: str = "",
    logger: str = "tensorboard",
) -> RunResult:
    """Trains an agent on a family and writes a run directory.

    Args:
        agent: name of the agent, see `metarl_agents.AGENTS`.
        env_id: id of the family, e.g. "MetaPoint-Goal-v0".
        preset: "fast", which is sized for two CPU cores, or "paper".
        seed: seed of all random numbers of the run.
        steps: environment steps, instead of the preset's number; only whole iterations are run, and
            none if the initial steps are as many.
        device: device of the networks, e.g. "cpu" or "cuda".
        out: the run's directory, new or empty; by default `runs/<agent>/<env_id>/<preset>-<seed>`.
        overrides: `key=value` texts that change the configuration.
        config_file: TOML file with configuration values, e.g. what `metarl config` prints; they replace
            those of the preset, and `overrides` replace them.
        progress: whether to show progress; the run's log file is written in any case.
        threads: threads of PyTorch and of the simulator, in each process.
        actors: number of processes of Ray that share the iterations, on this machine or in the cluster of
            the variable RAY_ADDRESS; 0 for none. The run is the same, bit for bit.
        command: command to record in `config.json`; by default that of the process.
        logger: "tensorboard", or "wandb" to send the TensorBoard events to Weights & Biases too; this
            needs the extra `metarl-agents[wandb]`. The run keeps the choice when it is resumed.

    Returns:
        The result. After SIGINT or SIGTERM, the current iteration is finished and saved, and
        `finished` is false; a second signal stops at the previous checkpoint.

    Raises:
        ConfigError: for unknown names or values out of range, if there is no work for so many actors, or if
            wandb is chosen but not installed.
        RunError: when the directory is not empty, or wandb does not start.
        ValueError: for an unknown family.
    """
    overriding: dict[str, Any] = {} if config_file is None else read_config(config_file)
    overriding |= parse_overrides(overrides)
    if steps is not None:
        overriding["total_env_steps"] = str(steps)
    config = find_agent(agent).config(env_id, preset, overriding)
    check_device(device)
    if actors and device != "cpu":
        raise ConfigError(f"actors compute on CPUs: use --device cpu with --actors, not {device!r}")
    family = metarl_envs.family(env_id)
    check_evaluations(config, family)
    products = choose_products(config.matrix_products, device)
    folder = Path(out) if out is not None else Path("runs") / agent / env_id / f"{preset}-{seed}"
    _check_empty(folder)
    description = {
        "format": FORMAT,
        "agent": agent,
        "env_id": env_id,
        "preset": preset,
        "overrides": overriding,
        "seed": seed,
        "device": device,
        "threads": threads,
        "actors": actors,
        "command": command or this_command(),
        "config": config.to_dict(),
        **wandb_identity(logger),
    }

    def write_directory() -> None:
        # Again, now that no other process can begin a run here.
        _check_empty(folder)
        write_json(folder / "versions.json", versions(family) | {"matrix_products": products})
        # Last, because a directory that contains this file is a run.
        write_description(folder, description)

    return _run(folder, description, config, progress, products, prepare=write_directory)


def _check_empty(folder: Path) -> None:
    """Refuses a directory with other files; what a start that failed has left is not in the way.

    Raises:
        RunError: when it is not empty, or not a directory.
    """
    if not folder.exists():
        return
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - {LOCK, "versions.json"}:
        raise RunError(f"{folder} is not empty: use another directory, or continue the run in it with resume")


def resume(
    run_dir: str | Path, *, progress: bool = True, steps: int | None = None, checkpoint: int | None = None
) -> RunResult:
    """Continues an interrupted run from its newest checkpoint, or from the start without one.

    On a CPU, with the same package versions, the weights and `metrics.jsonl` at the end are the same
    as without an interruption. The library for matrix products stays the one with which the run was
    started, regardless of this machine's choice; if it is not available, the run reports this and
    continues with PyTorch's default.

    Args:
        run_dir: the run's directory.
        progress: whether to show progress.
        steps: another number of environment steps of the whole run, e.g. to train a finished run further; it
            becomes part of the run's configuration.
        checkpoint: iteration of an older checkpoint to continue from; newer ones are renamed.

    Raises:
        ConfigError: if the run is recorded by wandb and wandb is not installed, or for a bad number of steps.
        RunError: when the directory is not a run or another process continues it, or wandb does not start.
        CheckpointError: when the newest checkpoint is damaged.
    """
    folder = Path(run_dir)
    description, config = read_description(folder)
    if steps is not None and steps != config.total_env_steps:
        config = config.replace({"total_env_steps": steps})
        description["config"] = config.to_dict()
        description["overrides"]["total_env_steps"] = str(steps)
    check_device(description["device"])
    products, note = recorded_products(folder), changed_versions(folder)

    def change_directory() -> None:
        if steps is not None:
            write_description(folder, description)
        if checkpoint is not None:
            set_aside(folder / "checkpoints", checkpoint)

    if products == "onednn" and (reason := reason_against_onednn()) is not None:
        products = "default"
        slower = (
            f"the run was started with oneDNN for matrix products, but {reason}; it continues with PyTorch's "
            "default, so its results differ from those of an uninterrupted run by rounding"
        )
        note = slower if note is None else f"{note}\n{slower}"
    return _run(folder, description, config, progress, products, note, prepare=change_directory)


def _run(
    folder: Path,
    description: dict[str, Any],
    config: RunConfig,
    progress: bool,
    products: str,
    note: str | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> RunResult:
    # `prepare` is called when the parts of the run fit together.
    started = time.perf_counter()
    threads, actors = description["threads"], description.get("actors", 0)
    with (
        ExitStack() as stack,
        handled_signals() as signals,
        torch_threads(threads),
        actor_pool(actors) as pool,
    ):
        parts = assemble(
            description["agent"],
            description["env_id"],
            config,
            seed=description["seed"],
            device=torch.device(description["device"]),
            threads=threads,
            pool=pool,
            products=products,
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_own_files(folder)
            stack.enter_context(held_run(folder))
            prepare()
            session = Session(folder, description, parts, signals=signals, progress=progress, pool=pool)
            nothing_left = session.nothing_left
            # A finished run would be a wandb run without content.
            if not nothing_left:
                try:
                    tracker = open_tracker(folder, description)
                except BaseException:
                    session.shown.stop()
                    raise
                if tracker is not None:
                    session.logger.track(tracker)
            session.run(products, note)
        finally:
            parts.env.close()
    logger = session.logger
    return RunResult(
        run_dir=folder,
        finished=session.finished,
        learned=logger.iteration > 0,
        iterations=logger.iteration,
        env_steps=logger.env_steps,
        gradient_steps=logger.gradient_steps,
        seconds=time.perf_counter() - started,
        nothing_left=nothing_left,
    )
