"""Commands that list and configure agents, and train them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metarl_agents.commands.options import (
    AgentName,
    Device,
    Overrides,
    Preset,
    Progress,
    RunDirectory,
    Threads,
    integers,
)
from metarl_agents.registry import all_agents, find_agent
from metarl_envs import cli as families

if TYPE_CHECKING:
    from metarl_agents.run.train import RunResult


def list_agents() -> None:
    """List all agents."""
    agents = all_agents()
    width = max(map(len, agents))
    for entry in agents.values():
        print(f"{entry.name.ljust(width)}  {entry.title} ({entry.reference})")


def config(
    agent: AgentName,
    family_id: families.FamilyId,
    preset: Preset = "fast",
    overrides: Overrides = None,
) -> None:
    """Print the configuration of a run as TOML, with an explanation of every key."""
    from metarl_agents.common.config import parse_overrides
    from metarl_agents.run.config_text import describe_config
    from metarl_envs import family

    family(family_id)
    chosen = find_agent(agent).config(family_id, preset, parse_overrides(overrides or []))
    print(describe_config(chosen), end="")


def train(
    agent: AgentName,
    family_id: families.FamilyId,
    preset: Preset = "fast",
    seed: Annotated[
        str, typer.Option(help="Training seed, or several separated by commas: one run after another.")
    ] = "0",
    steps: Annotated[
        int | None, typer.Option(help="Number of environment steps (default: the preset's).", min=1)
    ] = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the run (default: runs/AGENT/ID/PRESET-SEED). With several seeds, a"
            " directory for runs named seed-SEED."
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="File of configuration values, as `metarl config` prints them."),
    ] = None,
    overrides: Overrides = None,
    threads: Threads = 1,
    actors: Annotated[
        int,
        typer.Option(
            help="Number of processes that share the run's iterations, on this machine or in the Ray"
            " cluster at RAY_ADDRESS. The result does not depend on it.",
            min=0,
        ),
    ] = 0,
    logger: Annotated[
        str, typer.Option(help="tensorboard, or wandb to send the events to Weights & Biases too.")
    ] = "tensorboard",
    progress: Progress = True,
) -> None:
    """Train an agent on the training tasks of a family.

    Ctrl-C finishes the current iteration, saves a checkpoint and stops.
    `metarl resume` continues from there. `metarl sweep` trains several seeds
    at the same time, and other combinations.
    """
    from metarl_agents.run import train as run

    seeds = integers("seed", seed)
    for number in seeds:
        result = run.train(
            agent,
            family_id,
            preset=preset,
            seed=number,
            steps=steps,
            device=device,
            out=out / f"seed-{number}" if out is not None and len(seeds) > 1 else out,
            overrides=overrides or [],
            config_file=config_file,
            progress=progress,
            threads=threads,
            actors=actors,
            logger=logger,
        )
        _say_how_it_ended(result)


def resume(
    run_dir: RunDirectory,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Another number of environment steps of the whole run, to train a finished one further.",
            min=1,
        ),
    ] = None,
    checkpoint: Annotated[
        int | None,
        typer.Option(
            help="Iteration of an older checkpoint to continue from; newer ones are renamed.", min=0
        ),
    ] = None,
    progress: Progress = True,
) -> None:
    """Resume an interrupted run from its newest checkpoint."""
    from metarl_agents.run import train as run

    _say_how_it_ended(run.resume(run_dir, progress=progress, steps=steps, checkpoint=checkpoint))


def _say_how_it_ended(result: RunResult) -> None:
    if result.nothing_left and result.learned:
        print(
            f"nothing to do: {result.run_dir} is finished ({result.env_steps:,} environment steps)"
            f"  (next: metarl evaluate {result.run_dir})"
        )
        return
    print(
        f"{result.env_steps:,} environment steps and {result.gradient_steps:,} gradient steps"
        f" after {result.iterations} iterations; {result.seconds:.0f} s in this call"
    )
    if result.finished and not result.learned:
        print(
            f"untrained: {result.run_dir} contains the initial agent; use --steps with more than"
            f" {result.env_steps:,}"
        )
    elif result.finished:
        print(f"finished: {result.run_dir}  (next: metarl evaluate {result.run_dir})")
    else:
        print(f"stopped: {result.run_dir}  (continue: metarl resume {result.run_dir})")
        raise typer.Exit(130)
