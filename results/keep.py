"""Copies what is kept of a run into a folder here: python results/keep.py RUN FOLDER

Configuration, versions, metrics and evaluations as they are; of each report, whose trials may hold a hundred
episodes of a hundred tasks, the means over the episodes between two updates, with its summary.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from metarl_envs.evaluation import Report, summarise

AS_THEY_ARE = ("config.json", "versions.json", "metrics.jsonl", "evaluations.jsonl")


def condensed(report: Report) -> dict[str, Any]:
    """Returns a report with the episodes of one policy averaged."""
    size = report.protocol.episodes_per_update
    columns = {"return": report.returns, "length": report.lengths, "success": report.success_once}

    def batches(values: np.ndarray) -> list[Any]:
        runs, tasks, _ = values.shape
        means = values.reshape(runs, tasks, -1, size).mean(axis=-1)
        result: list[Any] = np.round(means, 4).tolist()
        return result

    summary = summarise(report)
    return {
        "agent": report.agent,
        "family": report.family,
        "protocol": report.protocol.to_dict(),
        "means": {name: batches(values) for name, values in (columns | report.reward_terms).items()},
        "axes": ["seed", "task", f"batch of {size} episodes"],
        "references": summary.references,
        "summary": str(summary).splitlines(),
        "provenance": report.to_dict()["provenance"],
    }


def keep(run: Path, folder: Path) -> None:
    """Copies a run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in AS_THEY_ARE:
        if (run / name).exists():
            shutil.copy(run / name, folder / name)
    for path in sorted(run.glob("report_*.json")):
        text = json.dumps(condensed(Report.from_json(path)))
        (folder / path.name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Path(sys.argv[2]))
