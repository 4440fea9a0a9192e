"""Share of the tasks of a split that the behaviour prior of a run solves in some of its episodes.

    python results/prior_coverage.py RUN...

An agent that adapts with a behaviour prior finds the reward of a sparse task by the prior's actions, so this
share bounds what it can solve. The success of training says little about it.
"""

import argparse
import json
from pathlib import Path

from metarl_agents import load_agent
from metarl_envs.evaluation import Protocol, evaluate


def coverage(run_dir: Path, split: str, episodes: int, seed: int) -> float:
    """Returns the share of tasks with success at any step of any of the episodes."""
    env_id = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["env_id"]
    protocol = Protocol(
        split=split, adaptation_episodes=0, scored_episodes=episodes, deterministic=False, seeds=(seed,)
    )
    report = evaluate(load_agent(run_dir, overrides=["act=prior"]), env_id, protocol)
    return float(report.success_once.any(axis=(0, 2)).mean())


def main() -> None:
    """Prints the coverage of every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=100, help="seed of the trials")
    chosen = parser.parse_args()
    for run_dir in chosen.runs:
        found = coverage(run_dir, chosen.split, chosen.episodes, chosen.seed)
        print(f"{run_dir}: {found:.2f} of the {chosen.split} tasks in {chosen.episodes} episodes")


if __name__ == "__main__":
    main()
