"""The command line `metarl`: the commands of `metarl-envs`, and those on agents and runs."""

from __future__ import annotations

import sys
import warnings

import typer

from metarl_agents.commands import evaluations, results, runs, studies
from metarl_agents.sweep import commands as sweep
from metarl_envs import cli as families

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, evaluate and plot meta-reinforcement-learning agents; list and describe task families.",
)

app.command("agents")(runs.list_agents)
app.command()(runs.config)
app.command()(runs.train)
app.command()(runs.resume)
app.command()(evaluations.evaluate)
app.command()(evaluations.adapt)
app.command(cls=evaluations.TwoSides)(evaluations.compare)
app.command()(results.report)
app.command()(results.export)
app.command()(results.plot)
app.add_typer(studies.studies, name="study")
app.add_typer(sweep.app, name="sweep")

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
