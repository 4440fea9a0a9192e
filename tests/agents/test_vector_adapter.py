"""The adapter between Gymnasium vector environments and Tianshou collectors."""

import gymnasium
import numpy as np
import pytest
from fakes import LENGTHS, CountingVectorEnv
from gymnasium.vector import AutoresetMode
from tianshou.algorithm.algorithm_base import Policy
from tianshou.data import Batch, Collector, VectorReplayBuffer

from metarl_agents.common.vector_adapter import GymVectorEnvAdapter, box_width

MODES = (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP)


class UnmaskedEnv(CountingVectorEnv):
    """As Gymnasium's own vector environments: `step` has no mask."""

    def step(self, actions):
        return super().step(actions)


class ConstantPolicy(Policy):
    def forward(self, batch, state=None, **kwargs):
        return Batch(act=np.full((len(batch.obs), 2), 0.25, np.float32), state=None)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_class", [CountingVectorEnv, UnmaskedEnv])
@pytest.mark.parametrize("wanted", [{"n_step": 40}, {"n_episode": 7}])
def test_stock_collector_stores_exactly_what_the_simulations_did(mode, env_class, wanted):
    env = GymVectorEnvAdapter(env_class(4, mode), info_keys=("task_id", "dense"))
    policy = ConstantPolicy(action_space=env.venv.single_action_space)
    buffer = VectorReplayBuffer(400, 4)
    collector = Collector(policy, env, buffer)
    collector.reset()
    stats = collector.collect(**wanted)
    stored = buffer[:]
    assert len(stored) == stats.n_collected_steps > 0
    task, episode, step = stored.obs.T
    next_task, next_episode, next_step = stored.obs_next.T
    assert (next_task == task).all()
    assert (next_episode == episode).all()
    assert (next_step == step + 1).all()
    assert np.allclose(stored.rew, stored.obs_next @ [100.0, 10.0, 1.0] + 0.25)
    ended = next_step >= np.array(LENGTHS)[task.astype(int) % 3]
    assert (stored.terminated == (ended & (task == 1))).all()
    assert (stored.truncated == (ended & (task != 1))).all()
    assert (stored.info.task_id == task).all()
    assert (stored.info.env_id == task).all()  # simulation i has task i here
    assert (stored.info.dense == 100 * task + next_step).all()


@pytest.mark.parametrize("mode", MODES)
def test_arrays_show_final_observations_and_infos_of_ended_rows(mode):
    env = GymVectorEnvAdapter(CountingVectorEnv(3, mode), info_keys=("dense",))
    env.reset_arrays()
    for _ in range(3):
        observations, _, terminated, truncated, infos = env.step_arrays(np.zeros((3, 2), np.float32))
    assert terminated.tolist() == [False, True, False]
    assert not truncated.any()
    assert observations[:, 2].tolist() == [3, 3, 3]
    assert infos["dense"].tolist() == [3, 103, 203]


def test_spaces_seeds_and_attributes():
    env = GymVectorEnvAdapter(CountingVectorEnv(3))
    assert len(env) == 3
    assert env.action_space == [env.venv.single_action_space] * 3
    assert env.observation_space[0] == env.venv.single_observation_space
    assert env.seed(5) == [[5], [6], [7]]
    assert env.seed() == [None] * 3
    env.set_env_attr("note", 1)
    assert env.get_env_attr("note", 1) == [1]
    env.close()
    env.close()


def test_next_step_autoreset_is_refused():
    with pytest.raises(ValueError, match="autoreset_mode='Disabled'"):
        GymVectorEnvAdapter(CountingVectorEnv(2, AutoresetMode.NEXT_STEP))


def test_box_width_wants_vectors():
    assert box_width(gymnasium.spaces.Box(-1, 1, (4,))) == 4
    with pytest.raises(ValueError, match="space of vectors"):
        box_width(gymnasium.spaces.Discrete(3))
    with pytest.raises(ValueError, match="space of vectors"):
        box_width(gymnasium.spaces.Box(-1, 1, (4, 4)))
