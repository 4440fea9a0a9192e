"""Speed of the adaptation's updates of many tasks together, relative to a loop over tasks."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import numpy as np
import torch
from gymnasium.spaces import Box
from interleave import Check, Variant, interleave, report
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from metarl_agents.common.threads import torch_threads
from metarl_agents.iwpa.agent import AdaptationAgent, Pretrained
from metarl_agents.iwpa.config import AdaptationConfig
from metarl_agents.iwpa.critics import WEIGHTS
from metarl_agents.iwpa.steps import Chunks
from metarl_agents.iwpa.weighted import FrozenPriorLearner
from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy
from metarl_agents.priors.values import consistent_soft_value
from metarl_envs.evaluation import Trial

#: Sizes of the paper; the tasks have made two episodes of 200 steps.
OBS, ACT, TASKS, STEPS = 50, 8, 30, 400
CONFIG = AdaptationConfig(initial_weights="random", temperature="fixed", feature_cache=2.0)
STD, GAMMA = (0.3, 0.8, 1.3), 0.99


def networks() -> tuple[GaussianPolicy, ActionValue]:
    """Returns a prior and a critic of shared features with random weights."""
    generator = torch.Generator().manual_seed(0)
    prior = GaussianPolicy(OBS, 0, (200, 100), ACT, std=STD, generator=generator)
    critic = ActionValue(OBS, 100, ACT, (400, 300), shared=True, described=False, generator=generator)
    return prior, critic


def learner(variant: str, tasks: int, cache: float) -> tuple[AdaptationAgent, FrozenPriorLearner]:
    """Returns an agent and its learner after `STEPS` random steps of each task."""
    prior, critic = networks()
    config = CONFIG.replace({"variant": variant, "feature_cache": cache})
    pretrained = Pretrained(
        prior=prior,
        features=critic if variant == "iwpa" else None,
        hidden=(200, 100),
        critic_hidden=(400, 300),
        std=STD,
        gamma=GAMMA,
        device=torch.device("cpu"),
    )
    agent = AdaptationAgent(pretrained, config)
    box = {size: Box(-1.0, 1.0, (size,), np.float32) for size in (OBS, ACT)}
    agent.begin_trial(
        Trial(
            num_tasks=tasks,
            observation_space=box[OBS],
            action_space=box[ACT],
            horizon=STEPS,
            adaptation_episodes=0,
            scored_episodes=1,
            episodes_per_update=1,
            deterministic=False,
            seed=0,
        )
    )
    found = agent.learner
    assert isinstance(found, FrozenPriorLearner)
    generator, everyone = torch.Generator().manual_seed(1), np.arange(tasks)
    for row in range(STEPS):

        def draw(*shape: int) -> Tensor:
            """Returns the same numbers for a task, whatever the number of tasks."""
            return torch.randn((TASKS, *shape), generator=generator)[:tasks]

        found.steps.add(
            np.ones(tasks, bool),
            obs=draw(OBS),
            act=draw(ACT),
            reward=draw(),
            discount=torch.ones(tasks),
            obs_next=draw(OBS),
            log_mu=draw(),
        )
        found.added(everyone, np.full(tasks, row))
    return agent, found


class OneTask:
    """The same update of one task as one would write it from the paper.

    Args:
        ours: a learner before its first update.
        task: the task.
    """

    def __init__(self, ours: FrozenPriorLearner, task: int) -> None:
        steps, config = ours.steps, ours.config
        self.config, self.task = config, task
        columns = (steps.obs, steps.act, steps.reward, steps.obs_next, ours.sample_TMKA)
        self.obs, self.act, self.reward, self.obs_next, self.samples = (c[task] for c in columns)
        self.alpha = float(ours.temperatures[task])
        online = ours.critics.networks.online
        shared = config.variant == "iwpa"
        self.critic = ActionValue(
            OBS, 0, ACT, (400, 300), shared=False, described=False, generator=torch.Generator()
        )
        with torch.no_grad():
            for name, parameter in self.critic.named_parameters():
                if name in online and parameter.numel():
                    value = online[name][0 if len(online[name]) == 1 else task]
                    parameter.copy_(value.view_as(parameter))
                elif parameter.numel():
                    parameter.zero_()
                # Features and, with them, the constant are frozen.
                parameter.requires_grad_(not shared or name == WEIGHTS)
        self.learned = [p for p in self.critic.parameters() if p.requires_grad and p.numel()]
        self.target = copy.deepcopy(self.critic)
        self.optimiser = torch.optim.Adam(self.learned, lr=config.learning_rate)
        self.updates = 0

    def __call__(self, rows: Tensor) -> None:
        """One update from the steps `rows` (N,)."""
        count, empty = self.config.action_samples, torch.zeros(1, 0)
        with torch.no_grad():
            obs = self.obs_next[rows].repeat_interleave(count, 0)
            value = self.target(obs[None], empty, self.samples[rows].flatten(0, 1)[None])
            soft = consistent_soft_value(value.view(len(rows), count), self.alpha)
            target = self.reward[rows] + GAMMA * soft
        value = self.critic(self.obs[rows][None], empty, self.act[rows][None])[0]
        loss = 0.5 * (value - target).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(self.learned, self.config.max_gradient_norm)
        self.optimiser.step()
        self.updates += 1
        if self.updates % self.config.target_period == 0:
            self.target.load_state_dict(self.critic.state_dict())


def drawn(agent: AdaptationAgent, ours: FrozenPriorLearner) -> Chunks:
    """Returns chunks of all tasks. All are whole, so every step is valid."""
    everyone = np.arange(len(ours.steps.count))
    return ours.steps.draw(everyone, agent.generators, CONFIG.batch_size, CONFIG.chunk_length)


def largest_difference(variant: str) -> float:
    """Returns the largest difference of a weight after 25 updates of two tasks, relative to the largest.

    Raises:
        RuntimeError: when it is not rounding.
    """
    agent, ours = learner(variant, 2, 1.0)
    singles = [OneTask(ours, task) for task in range(2)]
    for _ in range(25):
        chunks = drawn(agent, ours)
        ours.update(chunks)
        for task, single in enumerate(singles):
            single(chunks.rows[task])
    worst = 0.0
    for task, single in enumerate(singles):
        weights = dict(single.critic.named_parameters())[WEIGHTS].detach().flatten()
        mine = ours.critics.networks.online[WEIGHTS][task]
        worst = max(worst, float((mine - weights).abs().max() / weights.abs().max()))
    if worst > (1e-6 if variant == "iwpa" else 1e-4):
        raise RuntimeError(f"the updates of {variant} differ by {worst:.1e}")
    return worst


def adaptation(variant: str, required: float) -> bool:
    """Times updates of all tasks together, over a period of the target networks, and of single tasks."""
    print(f"\n{variant}: largest difference of a weight after 25 updates: {largest_difference(variant):.1e}")
    period = CONFIG.target_period

    def together(cache: float) -> Callable[[], None]:
        agent, ours = learner(variant, TASKS, cache)

        def run() -> None:
            for _ in range(period):
                ours.update(drawn(agent, ours))

        return run

    agent, ours = learner(variant, 1, 0.0)
    single = OneTask(ours, 0)
    names = ("together", "together, features of samples kept", "loop over tasks")
    variants = {
        names[0]: Variant(together(0.0), period * TASKS),
        names[2]: Variant(lambda: single(drawn(agent, ours).rows[0]), 1),
    }
    if variant == "iwpa":
        variants[names[1]] = Variant(together(CONFIG.feature_cache), period * TASKS)
    rates = interleave(variants, rounds=3, seconds=0.5)
    checks = [Check("together / loop over tasks", rates.ratio(names[0], names[2]), required)]
    if variant == "iwpa":
        checks.append(Check("kept / not kept", rates.ratio(names[1], names[0]), 2.0))
    return report(f"{variant} adaptation", "task updates per second", rates, checks, {})


def main() -> int:
    """Runs both benchmarks; returns 1 if a required figure was not reached."""
    with torch_threads(1):
        reached = [adaptation("iwpa", 2.0), adaptation("iw", 2.0)]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
