"""Small configurations of PEARL* and off-policy RL2, and a buffer with trials, for their tests."""

import numpy as np
from builders import ACT, OBS

from metarl_agents.algorithms.pearl_star import PearlStarConfig
from metarl_agents.algorithms.rl2_off_policy import RL2OffPolicyConfig
from metarl_agents.priors.learner import LOG_MU
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.trials import TRIAL_STEP

SMALL = {
    "action_samples": 3, "learning_rate": 1e-2, "gamma": 0.9, "target_period": 2, "max_gradient_norm": 1e9,
    "memory_width": 5, "steps_per_task": 8,
}  # fmt: skip
RL2 = RL2OffPolicyConfig(
    **SMALL, hidden=(6,), critic_hidden=(7,), memory_hidden=(4,), batch_size=3, chunk_length=50,
    entropy_cost=0.1,
)  # fmt: skip
PEARL = PearlStarConfig(
    **SMALL, hidden=(6, 5), critic_hidden=(7, 6), batch_size=3, chunk_length=4, latent_size=2, kl_weight=0.7,
    trace_decay=0.8,
)  # fmt: skip
#: Episodes of the trials of each task.
TRIALS = [[4, 3], [2, 5, 4], [6]]


def filled(seed=0):
    """A buffer with one trial of each of three tasks; some episodes end in a terminal state."""
    buffer = TaskReplayBuffer(
        3, 40, OBS, ACT, generator=np.random.default_rng(seed), info_keys=(LOG_MU, TRIAL_STEP)
    )
    g = np.random.default_rng(seed + 1)
    for task, lengths in enumerate(TRIALS):
        taken = 0
        for number, length in enumerate(lengths):
            steps = np.arange(length)[None]
            last = steps == length - 1
            episode = {
                "obs": g.normal(size=(1, length, OBS)),
                "act": 1.5 * g.normal(size=(1, length, ACT)),
                "rew": g.normal(size=(1, length)),
                "obs_next": g.normal(size=(1, length, OBS)),
                "terminated": last & (number % 2 == 0),
                "truncated": last & (number % 2 == 1),
                LOG_MU: g.normal(size=(1, length)) - 2.0,
                TRIAL_STEP: taken + steps,
            }
            buffer.add_episodes(np.array([task]), np.array([length]), episode, to_context=True)
            taken += length
    return buffer
