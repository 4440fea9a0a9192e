"""Arguments and options that several commands have, and the reading of lists of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Progress = Annotated[bool, typer.Option(help="Show progress.")]
TrialTasks = Annotated[
    int | None, typer.Option("--tasks", help="Use only the first N tasks of the split.", min=1)
]


def integers(what: str, text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    Raises:
        ValueError: when the text is something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{what} must be whole numbers separated by commas, got {text!r}") from error
