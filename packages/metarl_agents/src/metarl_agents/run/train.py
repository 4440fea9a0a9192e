"""Training runs. The directory of a run is self-contained, and the run can be resumed."""

import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import metarl_envs
from metarl_agents.common.config import RunConfig, load_config, parse_overrides
from metarl_agents.common.matrix_products import choose_products, reason_against_onednn
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import Assembly, assemble
from metarl_agents.run.checkpoint import newest_checkpoint, read_checkpoint, write_checkpoint
from metarl_agents.run.directory import (
    RunError,
    check_device,
    read_description,
    recorded_products,
    versions,
    write_json,
)
from metarl_agents.run.evaluate import load_agent
from metarl_agents.run.logger import TrainingLogger
from metarl_agents.run.monitor import Monitor, check_evaluations
from metarl_agents.run.progress import RunProgress


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
    """

    run_dir: Path
    finished: bool
    learned: bool
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
        progress: whether to show progress; the run's log file is written in any case.
        threads: threads of PyTorch and of the simulator.

    Returns:
        The result. After SIGINT or SIGTERM, the current iteration is finished and saved, and
        `finished` is false; a second signal stops at the previous checkpoint.

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
    products = choose_products(config.matrix_products, device)
    folder = Path(out) if out is not None else Path("runs") / agent / env_id / f"{preset}-{seed}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is not empty: use another directory, or continue the run in it with resume")
    description = {
        "agent": agent,
        "env_id": env_id,
        "preset": preset,
        "overrides": overriding,
        "seed": seed,
        "device": device,
        "threads": threads,
        # Without the folder of the program, which has no meaning on another machine.
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": config.to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "versions.json", versions(family) | {"matrix_products": products})
    # Last, because a directory that contains this file is a run.
    write_json(folder / "config.json", description)
    return _run(folder, description, config, progress, products)


def resume(run_dir: str | Path, *, progress: bool = True) -> RunResult:
    """Continues an interrupted run from its newest checkpoint, or from the start without one.

    On a CPU, with the same package versions, the weights and `metrics.jsonl` at the end are the same
    as without an interruption. The library for matrix products stays the one with which the run was
    started, regardless of this machine's choice; if it is not available, the run reports this and
    continues with PyTorch's default.

    Raises:
        RunError: when the directory is not a run.
        CheckpointError: when the newest checkpoint is damaged.
    """
    folder = Path(run_dir)
    description, config = read_description(folder)
    products, note = recorded_products(folder), None
    if products == "onednn" and (reason := reason_against_onednn()) is not None:
        products = "default"
        note = (
            f"the run was started with oneDNN for matrix products, but {reason}; it continues with PyTorch's "
            "default, so its results differ from those of an uninterrupted run by rounding"
        )
    return _run(folder, description, config, progress, products, note)


class _Signals:
    """Requests by signals: after the first one, the run stops at the end of the iteration."""

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
    """Handles SIGINT and SIGTERM during training; only the main thread can do so."""
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


def _run(
    folder: Path,
    description: dict[str, Any],
    config: RunConfig,
    progress: bool,
    products: str,
    note: str | None = None,
) -> RunResult:
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
            return _train(folder, description, parts, signals, progress, started, products, note)
        finally:
            parts.env.close()


def _train(
    folder: Path,
    description: dict[str, Any],
    parts: Assembly,
    signals: _Signals,
    progress: bool,
    started: float,
    products: str,
    note: str | None,
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
        updates_per_iteration=parts.updates_per_iteration,
        shown=progress,
    )
    if note is not None:
        shown.message(note)
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
        "stopping after this iteration; a second signal stops at the last checkpoint"
    )
    try:
        if path is None:
            save()
        elif monitor.due(logger.iteration, finished()):
            monitor.evaluate(logger.iteration, logger.env_steps)
        trainer = parts.trainer(parts.trainer_params(logger, save_checkpoint), products)
        trainer.reset(reset_collectors=False)
        while not finished() and not signals.stop:
            trainer.execute_epoch()
        if logger.iteration == 0 and finished():
            shown.message(
                f"the agent is untrained: of {config.total_env_steps:,} steps, the initial ones on the "
                f"training tasks already take {position[1]:,}, so no iteration was run; use more than "
                f"{position[1]:,} steps, or fewer initial ones"
            )
    finally:
        logger.finalize()
        shown.close()
    return RunResult(
        run_dir=folder,
        finished=finished(),
        learned=logger.iteration > 0,
        iterations=logger.iteration,
        env_steps=logger.env_steps,
        gradient_steps=logger.gradient_steps,
        seconds=time.perf_counter() - started,
    )
