"""Commands that write tables and plots of runs, and export them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metarl_agents.commands.options import (
    RunDirectories,
)
from metarl_agents.registry import all_agents

if TYPE_CHECKING:
    pass


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


def export(
    folder: Annotated[Path, typer.Argument(help="Directory of a sweep.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
) -> None:
    """Copy the finished runs of a sweep, without checkpoints, to OUT/AGENT/ID/PRESET-seed-SEED."""
    from metarl_agents.sweep.export import export as export_runs

    for path in export_runs(folder, out):
        print(path)


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
    from metarl_envs.files import file_name

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
            stem = name.removeprefix("report_").removesuffix(".json")
            picture = out / f"adaptation_{file_name(family_id)}_{stem}.png"
            by_agent: dict[str, list[Report]] = {}
            for report in group:
                by_agent.setdefault(report.agent, []).append(report)
            results: list[Result] = [pooled(reports) for reports in by_agent.values()]
            plot_adaptation(results, picture)
            print(picture)
