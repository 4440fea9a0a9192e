"""The commands `metarl sweep` and `metarl sweep status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from metarl_agents.sweep.engines.engine import Engine
    from metarl_agents.sweep.estimate import Estimate

ENGINES = ("local", "ray", "slurm")


class DefaultCommandGroup(TyperGroup):
    """A group in which words that name no command are arguments of the command `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `click.Command`."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=DefaultCommandGroup,
    no_args_is_help=True,
    help="Run many trainings and evaluations from one specification: `metarl sweep SPEC.toml`.",
)


@app.command("run", hidden=True)
def run(
    spec: Annotated[Path, typer.Argument(help="Specification of the sweep (TOML).", metavar="SPEC")],
    out: Annotated[
        Path | None, typer.Option(help="Directory of the sweep (default: runs/NAME of the specification).")
    ] = None,
    engine: Annotated[str, typer.Option(help="Where jobs run: local, ray or slurm.")] = "local",
    workers: Annotated[
        int | None,
        typer.Option(help="Number of jobs that run together (default for local: all cores).", min=1),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Engine ray: address of a cluster (default: a new one here).")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine slurm: a parameter of submitit, e.g. slurm_partition=gpu. May be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the jobs and run none.")] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="With --dry-run: run one iteration of each kind of job to estimate its cost.",
        ),
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Start failed jobs again.")] = False,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Run the jobs of a specification: every combination of its agents, families, presets and seeds.

    Each job trains an agent and evaluates it. The same command continues an
    interrupted sweep: finished jobs are not run again, the others continue
    from their newest checkpoint. Ctrl-C saves checkpoints and stops.
    """
    from metarl_agents.sweep.driver import run_sweep
    from metarl_agents.sweep.estimate import estimate
    from metarl_agents.sweep.spec import read_spec
    from metarl_agents.sweep.worker import FAILED

    jobs = read_spec(spec)
    folder = out if out is not None else Path("runs") / spec.stem
    if dry_run:
        _print_estimates(estimate(jobs, folder, measure=measure))
        return
    chosen = _engine(engine, workers, address, slurm or [], folder)
    result = run_sweep(jobs, folder, chosen, retry_failed=retry_failed, progress=progress)
    if result.stopped:
        print(f"stopped: {folder}  (continue: the same command again)")
        raise typer.Exit(130)
    if not result.finished:
        failed = [path.name for path, state in result.states.items() if state == FAILED]
        print(f"failed: {', '.join(failed)}")
        print(f"state and error of every job: metarl sweep status {folder}")
        raise typer.Exit(1)
    print(f"finished: {folder}  (next: metarl report {folder})")


@app.command("status")
def status(
    folder: Annotated[Path, typer.Argument(help="Directory of a sweep.", metavar="DIR")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Refresh the table until no job is running.")
    ] = False,
) -> None:
    """Show the state of every job of a sweep: steps, return, core hours, and the error of a failed job."""
    from metarl_agents.sweep.status import print_status

    print_status(folder, follow=follow)


def _engine(
    name: str, workers: int | None, address: str | None, parameters: list[str], folder: Path
) -> Engine:
    from metarl_agents.common.config import ConfigError, parse_overrides, unknown

    if name not in ENGINES:
        raise ConfigError(unknown("engine", name, ENGINES))
    if address is not None and name != "ray":
        raise ConfigError("--address is an option of the engine ray")
    if parameters and name != "slurm":
        raise ConfigError("--slurm is an option of the engine slurm")
    if name == "local":
        from metarl_agents.sweep.engines.local import LocalEngine, cores

        return LocalEngine(workers or cores())
    if name == "ray":
        from metarl_agents.sweep.engines.ray import RayEngine

        return RayEngine(workers, address=address)
    from metarl_agents.sweep.engines.slurm import SlurmEngine

    return SlurmEngine(folder / "slurm", parse_overrides(parameters), workers)


def _print_estimates(found: list[Estimate]) -> None:
    from rich.table import Table

    from metarl_agents.sweep.status import describe_variants, hours, table_console

    table = Table(caption_justify="left")
    variants = describe_variants([entry.status.job for entry in found])
    for heading in ("agent", "family", "preset"):
        table.add_column(heading, overflow="fold")
    for heading in ("seed", "steps", "core h left"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    total, unknown_cost = 0.0, 0
    for entry in found:
        job = entry.status.job
        unknown_cost += entry.core_seconds is None
        total += entry.core_seconds or 0.0
        table.add_row(
            job.agent,
            job.env_id,
            job.preset + variants[job.key],
            str(job.seed),
            f"{entry.status.total_steps:,}",
            hours(entry.core_seconds) or "?",
            entry.status.state,
        )
    notes = [f"{len(found)} jobs; about {total / 3600:.1f} core hours of training are left"]
    if unknown_cost:
        notes.append(
            f"{unknown_cost} jobs of unknown cost are not in it (--measure runs an iteration of each)"
        )
    table.caption = "; ".join(notes)
    table_console().print(table)
