"""Share of the tasks of a split that the behaviour prior of a run solves in some of its episodes.

    python results/prior_coverage.py RUN...

An agent that adapts with a behaviour prior finds the reward of a sparse task by the prior's actions, so this
share bounds what it can solve. The success of training says little about it.
"""

import argparse
import json
from pathlib import Path

from metarl_agents.run.iwpa_study import COVERAGE_EPISODES, COVERAGE_SEED, prior_coverage


def main() -> None:
    """Prints the coverage of every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--episodes", type=int, default=COVERAGE_EPISODES)
    parser.add_argument("--seed", type=int, default=COVERAGE_SEED, help="seed of the trials")
    chosen = parser.parse_args()
    for run_dir in chosen.runs:
        env_id = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["env_id"]
        found = prior_coverage(
            run_dir, env_id, split=chosen.split, episodes=chosen.episodes, seed=chosen.seed
        )
        print(f"{run_dir}: {found:.2f} of the {chosen.split} tasks in {chosen.episodes} episodes")


if __name__ == "__main__":
    main()
