"""Effect of CRL's predicted heads: runs are evaluated again with other heads, on the same trials.

    python benchmarks/crl_heads.py runs/crl-0 runs/crl-1 runs/crl-2

Prints the mean return of the third episode (protocol "pearl", trial seeds 0, 1, 2) and, for each
change of the agent, the difference that it makes: mean over tasks and seeds, ± one standard error over
tasks.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metarl_agents import load_agent
from metarl_agents.algorithms.crl import CRLAgent
from metarl_agents.networks.heads import Heads
from metarl_agents.run.directory import read_description
from metarl_envs import evaluation

CHANGES = {
    "mean": "the mean head throughout",
    "other": "the head of some other training task",
    "own": "the head that the task has in training",
    "prior": "z from the prior throughout, predicted head",
    "explore": "two episodes with z from the prior, as PEARL explores",
}


class ChangedAgent(CRLAgent):
    """CRL's agent with one change; see `CHANGES`."""

    def __init__(self, policy: Any, change: str) -> None:
        super().__init__(policy)
        self.change = change

    def begin_trial(self, trial: Any) -> None:
        """As CRL's."""
        super().begin_trial(trial)
        self.prior_episodes = {"explore": 2, "prior": trial.adaptation_episodes + 99}.get(self.change, 1)
        self.mean = self.policy.heads_R

    def end_episode(self) -> None:
        """As CRL's, then replaces the heads."""
        super().end_episode()
        count, every = len(self.count_T1), self.policy.actor.heads()
        if self.change == "mean":
            self.policy.heads_R = self.mean
        elif self.change == "own":
            self.policy.heads_R = self.chosen(every, torch.arange(count))
        elif self.change == "other":
            # A rotation by a fixed number of tasks: never a task's own head.
            self.policy.heads_R = self.chosen(every, (torch.arange(count) + 7) % len(every.bias))

    @staticmethod
    def chosen(heads: Heads, rows: torch.Tensor) -> Heads:
        """Copies of some heads."""
        return Heads(*(column.detach() for column in heads.rows(rows)))


def third_episode(run: Path, split: str, change: str) -> np.ndarray:  # type: ignore[type-arg]
    """Mean over trial seeds of the third episode's return, per task."""
    protocol = evaluation.PROTOCOLS["pearl"].to_dict() | {"split": split, "seeds": (0, 1, 2)}
    description, _ = read_description(run)
    report = evaluation.evaluate(
        ChangedAgent(load_agent(run).policy, change),
        description["env_id"],
        evaluation.Protocol.from_dict(protocol),
        env_arguments={"num_threads": 1},
        agent_name=change,
    )
    returns: np.ndarray = report.returns[..., 2].mean(0)  # type: ignore[type-arg]
    return returns


def main(runs: list[str]) -> None:
    """Prints a line per split, run and change."""
    torch.set_num_threads(1)
    for split in ("test", "train"):
        for run in map(Path, runs):
            base = third_episode(run, split, "")
            print(f"{split} {run}: {base.mean():.2f} with the predicted head")
            for change, meaning in CHANGES.items():
                if change == "own" and split != "train":
                    continue
                difference = third_episode(run, split, change) - base
                error = difference.std(ddof=1) / len(difference) ** 0.5
                print(f"  {difference.mean():+.2f} ± {error:.2f}  {meaning}")


if __name__ == "__main__":
    main(sys.argv[1:])
