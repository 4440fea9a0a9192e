"""The command line `metarl-envs`: task families, their documentation pages, task tables and pictures."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from metarl_envs.families import tables
from metarl_envs.families.family import Family
from metarl_envs.families.registration import register_specs
from metarl_envs.families.specs import family, registered_ids
from metarl_envs.files import atomic_path

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, describe, export and render meta-reinforcement-learning task families.",
)
tasks_app = typer.Typer(no_args_is_help=True, help="Work with the frozen task tables.")
app.add_typer(tasks_app, name="tasks")

FamilyId = Annotated[str, typer.Argument(help="The id of a family, e.g. MetaAnt-Goal-v0.", metavar="ID")]
Specs = Annotated[
    list[Path] | None,
    typer.Option("--specs", help="Directory with further families (may be repeated).", metavar="DIR"),
]


def ids_with(specs: list[Path] | None) -> tuple[str, ...]:
    """Returns the ids of all families, those of further directories included."""
    for directory in specs or ():
        register_specs(directory)
    return registered_ids()


def find(family_id: str, specs: list[Path] | None) -> Family:
    """Returns a family, one of further directories included."""
    ids_with(specs)
    return family(family_id)


class Format(StrEnum):
    """Output formats of tasks."""

    JSON = "json"
    CSV = "csv"


def run(application: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; bad input gives a one-sentence message, not a traceback.

    Args:
        application: the commands.
        arguments: the words after the program's name; None uses those of the process.

    Returns:
        The exit status.
    """
    try:
        status = application(args=arguments, standalone_mode=False)
    except typer.Exit as leaving:
        return leaving.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("aborted", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        # Typer vendors Click, whose usage errors have their own message and exit status.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", 2))
    return status if isinstance(status, int) else 0


def write_out(text: str, out: Path | None) -> None:
    """Writes the result of a command to a file, or prints it."""
    if out is None:
        print(text, end="")
    else:
        with atomic_path(out) as file:
            file.write_text(text)


@app.command("list")
def list_families(specs: Specs = None) -> None:
    """List all families with their splits, horizons and titles."""
    rows = [
        (
            f.id,
            " / ".join(f"{s.count} {s.name}" for s in f.splits.values()),
            str(f.horizon),
            f.title,
        )
        for f in map(family, ids_with(specs))
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]))


@app.command()
def describe(
    family_id: FamilyId,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
    specs: Specs = None,
) -> None:
    """Print the documentation page of a family."""
    from metarl_envs.pages.page import page

    write_out(page(find(family_id, specs)), out)


@app.command()
def render(
    family_id: FamilyId,
    out: Annotated[Path | None, typer.Option(help="Output file: PNG, GIF or MP4 (default: ID.png).")] = None,
    split: Annotated[str, typer.Option(help="Split of the task.")] = "test",
    task: Annotated[int, typer.Option(help="Index of the task in the split.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Number of random steps, at most one episode. A clip shows every step (default: the"
            " horizon), a PNG only the last one (default: 20).",
            min=0,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the start state and the actions.", min=0)] = 0,
    specs: Specs = None,
) -> None:
    """Render a picture or a clip of a family, with the task marked."""
    from metarl_envs.env import MetaEnv
    from metarl_envs.pages.frames import CLIPS, check_format, write_frames

    path = Path(f"{family_id}.png") if out is None else out
    check_format(path)
    f = find(family_id, specs)
    env = MetaEnv(f, split=split, task=task, render_mode="rgb_array")
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    clip = path.suffix in CLIPS
    if steps is None:
        steps = f.horizon if clip else 20
    frames = [env.render()] if clip or not steps else []
    for step in range(steps):
        terminated = env.step(rng.uniform(-1.0, 1.0, env.action_space.shape))[2]
        if clip or terminated or step == steps - 1:
            frames.append(env.render())
        if terminated:
            break
    write_frames(path, [f for f in frames if f is not None], env.metadata["render_fps"])
    env.close()
    print(path)


@tasks_app.command()
def verify(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of families (default: all).")] = None,
    specs: Specs = None,
) -> None:
    """Derive the task tables again, compare them with the frozen ones, and check the compiled models."""
    from metarl_envs.freezing import problems

    failed = False
    known = ids_with(specs)
    for family_id in ids or known:
        try:
            found = problems(family(family_id))
        except ValueError as error:
            found = [str(error)]
        print(f"{family_id}: {'; '.join(found) if found else 'ok'}")
        failed |= bool(found)
    if failed:
        raise typer.Exit(1)


@tasks_app.command()
def export(
    family_id: FamilyId,
    split: Annotated[str, typer.Option(help="Split: train, validation, test or ood.")] = "test",
    format: Annotated[Format, typer.Option(help="Output format: json or csv.")] = Format.JSON,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
    specs: Specs = None,
) -> None:
    """Export the tasks of a split as JSON or CSV."""
    f = find(family_id, specs)
    tasks = f.tasks(split)
    if format is Format.JSON:
        content: dict[str, Any] = {
            "family": f.id,
            "split": split,
            "parameters": list(f.parameter_names),
            "units": list(f.parameter_units),
            "sha256": tables.checksums(f.directory)["tables"][f.id][split],
            "tasks": [list(task.parameters) for task in tasks],
        }
        write_out(json.dumps(content, indent=1) + "\n", out)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *f.parameter_names])
    writer.writerows([task.index, *map(repr, task.parameters)] for task in tasks)
    write_out(text.getvalue(), out)


@tasks_app.command()
def plot(
    family_id: FamilyId,
    out: Annotated[Path | None, typer.Option(help="Output file, a PNG (default: ID-tasks.png).")] = None,
    specs: Specs = None,
) -> None:
    """Plot the task parameters of every split."""
    from metarl_envs.pages.task_plot import plot_tasks

    path = Path(f"{family_id}-tasks.png") if out is None else out
    if path.suffix != ".png":
        raise ValueError(f"a plot's file name must end in '.png', got {path.name!r}")
    plot_tasks(find(family_id, specs), path)
    print(path)


@tasks_app.command("freeze")
def freeze_tables(family_id: FamilyId, specs: Specs = None) -> None:
    """Check a new family, or a new split; write its task tables and record the checksums."""
    from metarl_envs.freezing import freeze

    f = find(family_id, specs)
    print(f"{f.id}: frozen {', '.join(freeze(f))}")


@tasks_app.command("unfreeze")
def unfreeze_tables(family_id: FamilyId, specs: Specs = None) -> None:
    """Remove the task tables and checksums of a family that has not been released."""
    from metarl_envs.freezing import unfreeze

    f = find(family_id, specs)
    unfreeze(f)
    print(f"{f.id}: not frozen")


def main() -> None:
    """Runs the command line."""
    sys.exit(run(app))
