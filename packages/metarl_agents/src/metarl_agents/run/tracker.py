"""Weights & Biases beside the files of a run, through Tianshou's logger.

Needs the extra `metarl-agents[wandb]`, which is imported only for runs that use it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from tianshou.utils import WandbLogger

from metarl_agents.common.config import ConfigError, unknown
from metarl_agents.run.directory import RunError

#: Allowed values of the argument `logger` of `metarl_agents.train`.
LOGGERS = ("tensorboard", "wandb")


def wandb_identity(logger: str) -> dict[str, Any]:
    """What the `config.json` of a new run says about the run's place on Weights & Biases.

    Args:
        logger: one of `LOGGERS`.

    Returns:
        Nothing for "tensorboard". For "wandb", the entry `wandb`: the project, which is that of the
        environment variable WANDB_PROJECT or "metarl", and a new id.

    Raises:
        ConfigError: for an unknown logger, or if wandb is not installed.
    """
    if logger not in LOGGERS:
        raise ConfigError(unknown("logger", logger, LOGGERS))
    if logger == "tensorboard":
        return {}
    _import_wandb()
    return {"wandb": {"project": os.environ.get("WANDB_PROJECT", "metarl"), "run_id": secrets.token_hex(4)}}


def open_tracker(folder: Path, description: dict[str, Any]) -> Tracker | None:
    """Starts or continues the wandb run of a run; None if the run has none.

    Args:
        folder: the run's directory, which also gets wandb's files.
        description: the contents of its `config.json`.

    Raises:
        ConfigError: if wandb is not installed.
        RunError: if wandb does not start.
    """
    return Tracker(folder, description) if "wandb" in description else None


class Tracker(WandbLogger):
    """Tianshou's logger for Weights & Biases, with the id and the project of a run.

    It sends every TensorBoard event that is written after its start. The runs of an agent on a family
    are a group, whose members are the training seeds.

    Args:
        folder: the run's directory.
        description: the contents of its `config.json`.
    """

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        wandb = _import_wandb()
        if wandb.run is not None:
            raise RunError(
                f"this process already has a wandb run ({wandb.run.id}), and wandb records one at a time: "
                "call wandb.finish() first"
            )
        group = "-".join(description[key] for key in ("agent", "env_id", "preset"))
        try:
            super().__init__(
                project=description["wandb"]["project"],
                run_id=description["wandb"]["run_id"],
                group=group,
                name=f"{group}-{description['seed']}",
                config={key: value for key, value in description.items() if key != "wandb"},
                log_dir=str(folder),
            )
        except wandb.Error as error:
            raise RunError(
                f"wandb does not start: {error}. After `wandb login`, or with WANDB_MODE=offline in the "
                f"environment, start the run with: metarl resume {folder}"
            ) from error

    def finalize(self) -> None:
        """Sends what is left. Events of later runs of this process are not sent."""
        super().finalize()
        _import_wandb().tensorboard.unpatch()


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "the logger wandb needs Weights & Biases; install the extra with: "
            "pip install 'metarl-agents[wandb]'"
        ) from error
    return wandb
