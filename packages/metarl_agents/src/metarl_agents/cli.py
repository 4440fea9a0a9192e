"""The command line `metarl`: the commands of `metarl-envs`, and training and evaluating agents."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from metarl_agents.registry import all_agents, find_agent
from metarl_agents.sweep import commands as sweep
from metarl_envs import cli as families

if TYPE_CHECKING:
    from metarl_agents.run.train import RunResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, evaluate and plot meta-reinforcement-learning agents; list and describe task families.",
)

studies = typer.Typer(
    no_args_is_help=True, help="Run a study of a paper: several runs, evaluated and plotted together."
)
app.add_typer(studies, name="study")
app.add_typer(sweep.app, name="sweep")

AgentName = Annotated[
    str, typer.Argument(help="Name of an agent; `metarl agents` lists them.", metavar="AGENT")
]
RunDirectory = Annotated[Path, typer.Argument(help="Directory of a run.", metavar="RUN")]
RunDirectories = Annotated[
    list[Path], typer.Argument(help="Directories of one or more runs.", metavar="RUN...")
]
Preset = Annotated[str, typer.Option(help="Preset of tuned hyperparameters: fast or paper.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a configuration value. May be repeated.", metavar="KEY=VALUE"),
]
Device = Annotated[str, typer.Option(help="Device of the networks, e.g. cpu or cuda.")]
Threads = Annotated[int, typer.Option(help="Number of threads for PyTorch and for the simulator.", min=1)]


@app.command("agents")
def list_agents() -> None:
    """List all agents."""
    agents = all_agents()
    width = max(map(len, agents))
    for entry in agents.values():
        print(f"{entry.name.ljust(width)}  {entry.title} ({entry.reference})")


@app.command()
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


@app.command()
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
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Train an agent on the training tasks of a family.

    Ctrl-C finishes the current iteration, saves a checkpoint and stops.
    `metarl resume` continues from there. `metarl sweep` trains several seeds
    at the same time, and other combinations.
    """
    from metarl_agents.run import train as run

    seeds = _integers("seed", seed)
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


@app.command()
def resume(
    run_dir: RunDirectory,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Resume an interrupted run from its newest checkpoint."""
    from metarl_agents.run import train as run

    _say_how_it_ended(run.resume(run_dir, progress=progress))


@app.command()
def evaluate(
    run_dirs: RunDirectories,
    split: Annotated[
        str, typer.Option(help="Split to evaluate on: train, validation, test or ood.")
    ] = "test",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Evaluation protocol: pearl, pearl_sparse, mql, mql_1200, mql_800, maml, promp, promp_2, "
            "rl2, tesp, meta_sgd, iwpa, slbo (default: the agent's own)."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of the trials, e.g. 0,1,2 (default: those of the protocol).")
    ] = None,
    num_tasks: Annotated[
        int | None, typer.Option("--tasks", help="Evaluate only the first N tasks of the split.", min=1)
    ] = None,
    device: Device = "cpu",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a setting of the agent's adaptation. May be repeated.", metavar="KEY=VALUE"
        ),
    ] = None,
    threads: Threads = 1,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Evaluate the agents of runs, and write a report (JSON) and a plot (PNG) to the directory of each run.

    Runs of one agent on one family are training seeds of one result, which is
    printed last.

    A trial is a fixed number of consecutive episodes on one task. The agent
    adapts in the first ones, and the last ones are scored. The protocol sets
    both numbers. The report also contains references on the same tasks and
    seeds: zero actions, random actions and, where one exists, a scripted
    oracle.
    """
    from metarl_agents.run.evaluate import evaluate_run, report_stem
    from metarl_agents.run.progress import EpisodeProgress
    from metarl_envs.evaluation import Report, summarise

    chosen = None if seeds is None else _integers("seeds", seeds)
    found: dict[tuple[str, str, str], list[Report]] = {}
    for run_dir in run_dirs:
        with EpisodeProgress(str(run_dir), shown=progress) as shown:
            report = evaluate_run(
                run_dir,
                split=split,
                protocol=protocol,
                seeds=chosen,
                num_tasks=num_tasks,
                device=device,
                overrides=overrides or [],
                progress=shown.episode,
                threads=threads,
            )
        print(summarise(report))
        stem = report_stem(split, report.protocol, overrides or [])
        print(f"written: {run_dir}/report_{stem}.json and .png")
        found.setdefault((report.agent, report.family, report.protocol.name), []).append(report)
    for reports in found.values():
        if len(reports) > 1:
            print(f"\n{summarise(reports)}")


@app.command()
def adapt(
    run_dirs: RunDirectories,
    variants: Annotated[
        str,
        typer.Option(
            "--variant",
            help="What is learned and what acts, or several separated by commas: iwpa, iwpa_finetune, iw,"
            " distral, shared_q, q_only, scratch, prior.",
        ),
    ] = "iwpa",
    preset: Preset = "fast",
    split: Annotated[str, typer.Option(help="Split to adapt to: validation, test or ood.")] = "test",
    episodes: Annotated[int, typer.Option(help="Number of episodes of a trial; the last 3 are scored.")] = 40,
    seeds: Annotated[str, typer.Option(help="Seeds of the trials.")] = "0,1,2",
    num_tasks: Annotated[
        int | None, typer.Option("--tasks", help="Adapt to the first N tasks of the split only.", min=1)
    ] = None,
    device: Device = "cpu",
    overrides: Overrides = None,
    threads: Threads = 1,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Adapt pre-trained multi-task agents to new tasks, and write a report (JSON) and a plot (PNG) of each.

    RUN is a run of a multi-task agent with a behaviour prior, e.g. of
    distral with shared_q=true. Each task adapts from the steps of its own
    episodes. Run the same command again to continue an interrupted
    adaptation; what is finished is not computed again.
    """
    from metarl_agents.run.adapt import WINDOW, adapt_run, compare_variants
    from metarl_agents.run.progress import EpisodeProgress
    from metarl_envs.evaluation import Report, Result, plot_adaptation, pooled, summarise

    chosen = _integers("seeds", seeds)
    by_variant: dict[str, list[Report]] = {name: [] for name in variants.split(",")}
    for run_dir in run_dirs:
        for variant, reports in by_variant.items():
            with EpisodeProgress(f"{run_dir} {variant}", shown=progress) as shown:
                report = adapt_run(
                    run_dir,
                    variant=variant,
                    preset=preset,
                    split=split,
                    episodes=episodes,
                    seeds=chosen,
                    num_tasks=num_tasks,
                    device=device,
                    overrides=overrides or [],
                    progress=shown.episode,
                    threads=threads,
                )
            reports.append(report)
            print(summarise(report))
    results: dict[str, Result] = {variant: pooled(reports) for variant, reports in by_variant.items()}
    for reports in by_variant.values():
        if len(reports) > 1:
            print(f"\n{summarise(reports)}")
    if len(results) > 1:
        print(f"\n{compare_variants(results, episodes)}")
        picture = run_dirs[0] / f"adaptation_{split}_iwpa.png"
        plot_adaptation(list(results.values()), picture, window=WINDOW)
        print(f"written: {picture}")


class TwoSides(TyperCommand):
    """A command whose arguments have two sides with `--` in between."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `click.Command`."""
        if "--" in args:
            place = args.index("--")
            ctx.meta["second"] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)


@app.command(cls=TwoSides)
def compare(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Reports (JSON): one and another one, or any number of training seeds of an agent, then --, "
            "then those of the other agent.",
            metavar="REPORT... -- REPORT...",
        ),
    ],
    episodes: Annotated[
        str | None,
        typer.Option(
            help="Compare the mean return of these episodes of a trial instead of the score, e.g. 1-40, the"
            " area under the adaptation curve."
        ),
    ] = None,
) -> None:
    """Compare the scores of two agents on the same tasks: the difference, with an interval."""
    from metarl_envs.evaluation import Report, pooled
    from metarl_envs.evaluation import compare as compare_results

    second = [Path(text) for text in context.meta.get("second", [])]
    if not second and len(paths) == 2:
        paths, second = paths[:1], paths[1:]
    if not second:
        raise ValueError("compare takes two reports, or two lists of reports with -- in between")
    sides = [pooled([Report.from_json(path) for path in side]) for side in (paths, second)]
    # Reports of the same agent, e.g. with different settings, are told apart by their files.
    names = [side.agent for side in sides]
    if names[0] == names[1]:
        names = [", ".join(map(str, side)) for side in (paths, second)]
    part = None if episodes is None else _integers("episodes", episodes.replace("-", ","))
    if part is not None and len(part) != 2:
        raise ValueError(f"episodes must be a first and a last episode, such as 1-40, got {episodes!r}")
    print(compare_results(*sides, names=(names[0], names[1]), episodes=part and (part[0], part[1])))


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Directories of sweeps or of runs.", metavar="DIR...")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report (default: the first directory).")
    ] = None,
    papers: Annotated[
        Path | None, typer.Option(help="File of published numbers, such as results/papers.toml.")
    ] = None,
) -> None:
    """Write a table of all evaluated runs: agents, families, seeds, costs and commands.

    Writes report.md, report.csv, report.json and report.png: scores with
    intervals over training seeds, references, published numbers, and the share
    of the gap between zero action and the oracle over all families.
    """
    from metarl_agents.sweep.matrix import Papers, find_cells
    from metarl_agents.sweep.report import write_report

    published = Papers() if papers is None else Papers.read(papers)
    for path in write_report(find_cells(folders), out or folders[0], published):
        print(path)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Directory of a sweep.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
) -> None:
    """Copy the finished runs of a sweep, without checkpoints, to OUT/AGENT/ID/PRESET-seed-SEED."""
    from metarl_agents.sweep.export import export as export_runs

    for path in export_runs(folder, out):
        print(path)


@studies.command("mql-ood")
def mql_ood(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the results.")] = Path("runs/ood-study"),
    preset: Preset = "fast",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers of the runs.", min=0)] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Number of environment steps of each run (default: the preset's).", min=1),
    ] = None,
    evaluations: Annotated[int, typer.Option(help="Number of evaluations during meta-training.", min=1)] = 10,
    seeds: Annotated[str, typer.Option(help="Seeds of the trials in the final evaluation.")] = "0,1,2",
    overrides: Overrides = None,
    threads: Threads = 1,
    progress: Annotated[bool, typer.Option(help="Show progress.")] = True,
) -> None:
    """Run the out-of-distribution study of MQL (appendix B), with test velocities outside the training range.

    The study compares three budgets for adaptation: 200 steps, 1200 steps,
    and one long episode of 800 steps. It writes study.json and study.png with
    the return, lambda and beta during meta-training. Run the same command
    again to continue an interrupted study.
    """
    from metarl_agents.run.ood_study import OODStudy

    study = OODStudy(
        out,
        preset=preset,
        seed=seed,
        steps=steps,
        overrides=overrides or [],
        evaluations=evaluations,
        seeds=_integers("seeds", seeds),
        threads=threads,
    )
    path = study.run(progress=progress)
    if path is None:
        raise typer.Exit(130)
    print(f"written: {path} and {path.with_suffix('.png')}")


@app.command()
def plot(
    run_dirs: RunDirectories,
    out: Annotated[Path, typer.Option(help="Folder for the plots.")] = Path(),
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric of the learning curve, or several separated by commas (default: the return of"
            " the adapted policy)."
        ),
    ] = None,
) -> None:
    """Plot the learning curves of runs, and the adaptation curves from their reports.

    Runs that differ in their training seed only are one curve: a thin line
    for each seed, a thick one for the interquartile mean, and a band for its
    95% interval over the seeds.
    """
    from metarl_agents.common.config import ConfigError, unknown
    from metarl_agents.run.curves import plot_learning
    from metarl_agents.run.metrics import EVALUATION_GLOSSARY, glossary
    from metarl_envs.evaluation import Report, Result, plot_adaptation, pooled

    known = glossary(*all_agents()) | EVALUATION_GLOSSARY
    metrics = [] if metric is None else metric.split(",")
    for name in metrics:
        if name not in known:
            raise ConfigError(unknown("metric", name, known))
    learning = out / "learning.png"
    for remark in plot_learning(run_dirs, learning, metrics=metrics):
        print(remark)
    print(learning)
    names = sorted({path.name for run_dir in run_dirs for path in run_dir.glob("report_*.json")})
    for name in names:
        reports = [Report.from_json(d / name) for d in run_dirs if (d / name).exists()]
        by_family: dict[str, list[Report]] = {}
        for report in reports:
            by_family.setdefault(report.family, []).append(report)
        for family_id, group in by_family.items():
            picture = out / f"adaptation_{family_id}_{name.removeprefix('report_').removesuffix('.json')}.png"
            by_agent: dict[str, list[Report]] = {}
            for report in group:
                by_agent.setdefault(report.agent, []).append(report)
            results: list[Result] = [pooled(reports) for reports in by_agent.values()]
            plot_adaptation(results, picture)
            print(picture)


def _integers(what: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{what} must be whole numbers separated by commas, got {text!r}") from error


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


# The commands of `metarl-envs` on families.
app.command("list")(families.list_families)
app.command("describe")(families.describe)
app.command("render")(families.render)
app.add_typer(families.tasks_app, name="tasks")


def main() -> None:
    """Runs the command line."""
    # On the command line, only the message is useful, not the line of code that warns.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    sys.exit(families.run(app))
