"""Records the returns of zero actions, random actions and, if one exists, a scripted oracle in every family.

    python baselines.py                every id and split, into results/baselines/
    python baselines.py ID [ID ...]    only these families
    python baselines.py --missing ...  skip what is recorded with the same model and versions

Five seeds, every task of a split, at least a hundred episodes per seed. If a family has an
alive bonus, the returns without it are recorded too: in MetaHumanoid-Dir2D, the alive bonus of an episode
without motion is 1000.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from metarl_envs import MetaVectorEnv, family, registered_ids
from metarl_envs.evaluation import Protocol, Provenance, Report, iqm, reference_reports
from metarl_envs.evaluation.statistics import stratified_bootstrap_interval
from metarl_envs.files import atomic_path, readable_json

OUT = Path(__file__).resolve().parents[1] / "results" / "baselines"
SEEDS = (0, 1, 2, 3, 4)
EPISODES = 100  # per seed, at least


def summary(report: Report) -> dict[str, Any]:
    """Returns the figures of one agent on one split."""
    returns = report.returns.mean(axis=2)  # runs × tasks
    interval = stratified_bootstrap_interval(returns, iqm, rng=np.random.default_rng(0))
    result = {
        "mean": round(float(returns.mean()), 3),
        "iqm": round(float(iqm(returns)), 3),
        "interval_95": [round(float(x), 3) for x in interval],
        "episodes": report.returns.size,
        "mean_length": round(float(report.lengths.mean()), 2),
        "mean_by_term": {k: round(float(v.mean()), 3) for k, v in report.reward_terms.items()},
        "success_once": round(float(report.success_once.mean()), 3),
    }
    if "reward_alive" in report.reward_terms:
        result["mean_without_bonus"] = round(
            float((report.returns - report.reward_terms["reward_alive"]).mean()), 3
        )
    return result


def origin(family_id: str) -> dict[str, Any]:
    """Returns the versions and checksums on which the figures of a family depend, as stored in its file."""
    env = MetaVectorEnv(family_id, 1)
    provenance = Provenance.collect(
        env.family, "train", env_arguments={}, observe_task=False, env=env, maker=MetaVectorEnv
    )
    env.close()
    return {
        "family": family_id,
        "seeds": list(SEEDS),
        "versions": dict(provenance.versions),
        "model_checksum": provenance.model_checksum,
    }


def kept(family_id: str, now: dict[str, Any]) -> dict[str, Any]:
    """Returns the recorded figures by split that are still valid; the version of Python is not compared."""
    path = OUT / f"{family_id}.json"
    recorded = json.loads(path.read_text()) if path.exists() else {"versions": {}, "splits": {}}
    splits: dict[str, Any] = recorded.pop("splits")
    recorded["versions"]["python"] = now["versions"]["python"]
    return splits if recorded == now else {}


def baselines(family_id: str, missing: bool = False) -> dict[str, Any]:
    """Returns the figures of a family's splits.

    Args:
        family_id: the family.
        missing: compute only what is not recorded.
    """
    now = origin(family_id)
    recorded = kept(family_id, now) if missing else {}
    splits = {}
    for split, tasks in family(family_id).splits.items():
        if split in recorded:
            splits[split] = recorded[split]
            continue
        protocol = Protocol(
            split=split,
            adaptation_episodes=0,
            scored_episodes=math.ceil(EPISODES / tasks.count),
            seeds=SEEDS,
            name="baselines",
        )
        reports = reference_reports(family_id, protocol)
        splits[split] = {name: summary(report) for name, report in reports.items()}
    return {**now, "splits": splits}


def main() -> None:
    """Writes one file per family."""
    missing, ids = "--missing" in sys.argv, [word for word in sys.argv[1:] if word != "--missing"]
    for family_id in ids or registered_ids():
        with atomic_path(OUT / f"{family_id}.json") as path:
            path.write_text(readable_json(baselines(family_id, missing)) + "\n")
        figures = json.loads((OUT / f"{family_id}.json").read_text())["splits"]["test"]
        print(family_id, {name: row["mean"] for name, row in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
