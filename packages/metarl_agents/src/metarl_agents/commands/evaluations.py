"""Commands that evaluate the agents of runs, adapt and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from metarl_agents.commands.options import (
    Device,
    Overrides,
    Preset,
    Progress,
    RunDirectories,
    Threads,
    TrialTasks,
    integers,
)

if TYPE_CHECKING:
    pass


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
    num_tasks: TrialTasks = None,
    device: Device = "cpu",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a setting of the agent's adaptation. May be repeated.", metavar="KEY=VALUE"
        ),
    ] = None,
    threads: Threads = 1,
    progress: Progress = True,
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

    chosen = None if seeds is None else integers("seeds", seeds)
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
                say=shown.message,
                threads=threads,
            )
        print(summarise(report))
        stem = report_stem(split, report.protocol, overrides or [])
        print(f"written: {run_dir}/report_{stem}.json and .png")
        found.setdefault((report.agent, report.family, report.protocol.name), []).append(report)
    for reports in found.values():
        if len(reports) > 1:
            print(f"\n{summarise(reports)}")


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
    num_tasks: TrialTasks = None,
    device: Device = "cpu",
    overrides: Overrides = None,
    threads: Threads = 1,
    progress: Progress = True,
) -> None:
    """Adapt pre-trained multi-task agents to new tasks, and write a report (JSON) and a plot (PNG) of each.

    RUN is a run of a multi-task agent with a behaviour prior, e.g. of
    distral with shared_q=true. Each task adapts from the steps of its own
    episodes. Run the same command again to continue an interrupted
    adaptation; what is finished is not computed again.
    """
    from metarl_agents.run.adapt import WINDOW, adapt_run
    from metarl_agents.run.progress import EpisodeProgress
    from metarl_agents.run.variants import compare_variants
    from metarl_envs.evaluation import Report, Result, plot_adaptation, pooled, summarise

    chosen = integers("seeds", seeds)
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
        print(f"\n{compare_variants(results, episodes, WINDOW)}")
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
    part = None if episodes is None else integers("episodes", episodes.replace("-", ","))
    if part is not None and len(part) != 2:
        raise ValueError(f"episodes must be a first and a last episode, such as 1-40, got {episodes!r}")
    print(compare_results(*sides, names=(names[0], names[1]), episodes=part and (part[0], part[1])))
