"""Shows what limits a trained PEARL on a family: exploration, inference of z, or the actor given z.

    python benchmarks/pearl_inference.py SPLIT RUN...

prints, for the tasks of a split, the mean return over tasks and three trials of an episode with the posterior
mean of contexts collected in different ways, and with the best z found: for every task, the z inferred on 50
training tasks are tried, and the one with the best return is used once more from another initial state.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import metarl_envs
from metarl_agents import load_agent
from metarl_agents.common.threads import torch_threads
from metarl_agents.networks.encoders import product_of_gaussians
from metarl_agents.run.directory import read_description

TRIALS = 3


class Study:
    """Episodes of a trained policy under given z."""

    def __init__(self, run: Path) -> None:
        self.family = metarl_envs.family(read_description(run)[0]["env_id"])
        self.policy: Any = load_agent(run).policy
        self.policy.generator = torch.Generator().manual_seed(0)
        self.seed = 0

    def episode(
        self, tasks: Any, latent_TZ: Tensor, *, deterministic: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns of one episode of every task (T,) and its transitions as the encoder sees them (T, H, I).

        Raises:
            RuntimeError: an episode ends before the horizon.
        """
        env = metarl_envs.MetaVectorEnv(
            self.family, len(tasks), tasks=list(tasks), num_threads=1, autoreset_mode="Disabled"
        )
        self.seed += 10_000
        observations, _ = env.reset(seed=self.seed)
        self.policy.latent_RZ = latent_TZ
        returns, features = np.zeros(len(tasks)), []
        for _ in range(self.family.horizon):
            actions = self.policy.act_on_arrays(observations, deterministic=deterministic)
            following, rewards, terminated, _, _ = env.step(actions)
            if terminated.any():
                raise RuntimeError(
                    f"episodes of {self.family.id} may end early, which this study does not count"
                )
            features.append(self.policy.features(observations, actions, rewards, following))
            returns += rewards
            observations = following
        env.close()
        return returns, np.stack(features, 1)

    def prior(self, tasks: Any, count: int, **how: Any) -> np.ndarray:
        """Transitions of episodes on z from the prior, joined."""
        episodes = (self.episode(tasks, self.policy.sample_prior(len(tasks)), **how)[1] for _ in range(count))
        return np.concatenate(list(episodes), 1)

    @torch.no_grad()
    def infer(self, context: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and variance of the posterior of every task."""
        mean_TZ, variance_TZ = product_of_gaussians(*self.policy.encoder(torch.from_numpy(context)))
        return mean_TZ, variance_TZ

    def trial(self, tasks: Any) -> dict[str, np.ndarray]:
        """Returns per task of one trial, by how the context was gathered."""
        context = self.prior(tasks, 2)
        mean_TZ, variance_TZ = self.infer(context)
        sampled, own = self.episode(
            tasks, mean_TZ + variance_TZ.sqrt() * self.policy.sample_prior(len(tasks))
        )
        again = self.episode(tasks, self.infer(own)[0])[1]
        contexts = {
            "2 episodes on the prior": context,
            "6 episodes on the prior": np.concatenate((context, self.prior(tasks, 4)), 1),
            "2 episodes on the prior, sampled actions": self.prior(tasks, 2, deterministic=False),
            "the same 2 and one on the posterior": np.concatenate((context, own), 1),
            "2 episodes on the posterior alone": np.concatenate((own, again), 1),
        }
        returns = {"2 episodes on the prior, z sampled (the protocol)": sampled}
        for name, gathered in contexts.items():
            returns[name] = self.episode(tasks, self.infer(gathered)[0])[0]
        return returns

    def best(self, tasks: Any) -> dict[str, np.ndarray]:
        """Returns per task on the best z of 50 training tasks, and on that of the nearest one."""
        known = self.family.tasks("train")[:50]
        latent_KZ = self.infer(self.prior(known, 2))[0]
        every, count = [task for task in tasks for _ in known], len(known)
        tried_TK = self.episode(every, latent_KZ.repeat(len(tasks), 1))[0].reshape(-1, count)
        distance = [[np.linalg.norm(a.vector - b.vector) for b in known] for a in tasks]
        chosen = {
            "the nearest training task's z": np.argmin(distance, 1),
            "the best z of 50 training tasks": tried_TK.argmax(1),
        }
        return {
            name: self.episode(tasks, latent_KZ[torch.from_numpy(rows)])[0] for name, rows in chosen.items()
        }


def main(split: str, runs: list[str]) -> None:
    """Prints a table per run."""
    with torch_threads(1):
        for run in map(Path, runs):
            study = Study(run)
            tasks = study.family.tasks(split)
            trials = [study.trial(tasks) | study.best(tasks) for _ in range(TRIALS)]
            print(f"{run}, {len(tasks)} {split} tasks")
            for name in trials[0]:
                print(f"  {np.mean([trial[name] for trial in trials]):9.1f}  {name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
