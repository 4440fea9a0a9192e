"""The meta-collector: schedules, staging, and what ends up in the buffer."""

import numpy as np
import pytest
import torch
from fakes import LENGTHS, CountingVectorEnv
from gymnasium.vector import AutoresetMode

from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.collector import MetaCollector, Schedule, Stage
from metarl_agents.replay.policy import MetaPolicy

TASKS = 6
HORIZON = max(LENGTHS)


class RecordingPolicy(MetaPolicy):
    def __init__(self, env):
        super().__init__(
            action_space=env.venv.single_action_space,
            observation_space=env.venv.single_observation_space,
            generator=torch.Generator().manual_seed(0),
        )
        self.calls = []
        self.seen = []

    def begin_rollouts(self, tasks_R, conditioning, buffer):
        context = (buffer.context_end - buffer.context_start)[tasks_R]
        self.calls.append((tasks_R.tolist(), conditioning, context.tolist()))

    def prepared(self):
        return {}

    def prepare(self, decided, count):
        pass

    def act(self, observations_RO, rows, *, deterministic):
        return torch.rand(len(observations_RO), 2, generator=self.generator)

    def observe(self, observations_RO, actions_RA, rewards_R):
        self.seen.append((observations_RO.clone(), actions_RA.clone(), rewards_R.clone()))


def make(schedule, simulations=4, mode=AutoresetMode.DISABLED, tasks_per_iteration=3):
    env = GymVectorEnvAdapter(CountingVectorEnv(simulations, mode), info_keys=("dense",))
    buffer = TaskReplayBuffer(TASKS, 200, 3, 2, generator=np.random.default_rng(0), info_keys=("dense",))
    collector = MetaCollector(
        policy=RecordingPolicy(env),
        env=env,
        buffer=buffer,
        schedule=schedule,
        tasks=range(TASKS),
        tasks_per_iteration=tasks_per_iteration,
        horizon=HORIZON,
        generator=np.random.default_rng(1),
    )
    collector.reset_env()
    return collector


@pytest.mark.long
@pytest.mark.parametrize("simulations", [1, 4, 16])
def test_every_stored_step_is_one_that_happened(simulations):
    collector = make(Schedule((Stage(10, "prior", True),), ()), simulations)
    stats = collector.collect_initial()
    buffer = collector.task_buffer
    assert stats.n_collected_steps == len(buffer) == collector.collect_step
    for task in range(TASKS):
        rows = buffer._rows(np.array([task]), np.arange(buffer.head[task])[None])[0]
        obs, following = buffer.obs[rows], buffer.obs_next[rows]
        length = LENGTHS[task % 3]
        # The fewest whole episodes of this length that reach ten steps.
        assert len(rows) == -(-10 // length) * length
        assert (obs[:, 0] == task).all()
        assert (obs[:, 2] == np.arange(len(rows)) % length).all()
        assert np.array_equal(following, obs + np.array([0, 0, 1]))
        assert np.allclose(buffer.rew[rows], following @ [100, 10, 1] + buffer.act[rows, 0])
        assert np.allclose(buffer.info.dense[rows], 100 * task + following[:, 2])
        ended = following[:, 2] == length
        assert (buffer.terminated[rows] == (ended & (task == 1))).all()
        assert (buffer.truncated[rows] == (ended & (task != 1))).all()
        assert (buffer.done[rows] == ended).all()
    assert stats.returns.sum() == pytest.approx(sum(buffer.rew[buffer.sample_indices(0)]), rel=1e-5)
    assert sorted(set(stats.lens)) == sorted(set(LENGTHS))


@pytest.mark.parametrize("cut", [1, 2, 4, 50])
def test_a_stage_may_cut_episodes_and_says_so_as_a_time_limit(cut):
    collector = make(Schedule((Stage(5, "random", False, cut=cut),), ()))
    stats = collector.collect_initial()
    buffer = collector.task_buffer
    for task in range(TASKS):
        rows = buffer._rows(np.array([task]), np.arange(buffer.head[task])[None])[0]
        length = min(LENGTHS[task % 3], cut)
        assert len(rows) == -(-5 // length) * length
        last = buffer.obs_next[rows, 2] == length
        terminal = last & (task == 1) & (length == LENGTHS[1])
        assert (buffer.done[rows] == last).all()
        assert (buffer.terminated[rows] == terminal).all()
        assert (buffer.truncated[rows] == (last & ~terminal)).all()
    assert stats.lens.max() <= cut


def test_policies_observe_every_step_that_goes_on():
    collector = make(Schedule((Stage(6, "random", False),), ()), simulations=TASKS)
    collector.collect_initial()
    seen, buffer = collector.meta_policy.seen, collector.task_buffer
    # Tasks 2 and 5 have the longest episodes; no step follows their last.
    first = seen[: HORIZON - 1]
    for step, (obs, act, reward) in enumerate(first):
        row = 2 * buffer.capacity + step
        assert np.array_equal(obs[2].numpy(), buffer.obs[row])
        assert np.array_equal(act[2].numpy(), buffer.act[row])
        assert reward[2].item() == pytest.approx(buffer.rew[row])
    assert (first[0][0][:, 2] == 0).all()
    assert (seen[HORIZON - 1][0][:, 2] == 0).all()  # the next episodes begin


def draw_always(*tasks):
    return type("Fixed", (), {"integers": lambda *_, **__: np.array(tasks)})()


def test_an_iteration_follows_the_schedule():
    schedule = Schedule(
        (),
        (
            Stage(12, "prior", True),
            Stage(18, "posterior", True, first="prior", one_at_a_time=True),
            Stage(18, "posterior", False, first="prior"),
        ),
    )
    collector = make(schedule, simulations=16, tasks_per_iteration=1)
    collector.generator = draw_always(2)  # its episodes last the whole horizon, six steps
    stats = collector.collect(n_step=1)
    # Rollouts, conditioning, and the size of the context view before each round.
    assert collector.policy.calls == [
        ([2, 2], "prior", [0, 0]),
        ([2], "prior", [12]),
        ([2], "posterior", [18]),
        ([2], "posterior", [24]),
        ([2], "prior", [30]),
        ([2, 2], "posterior", [30, 30]),
    ]
    buffer = collector.task_buffer
    assert buffer.head[2] == stats.n_collected_steps == 48
    assert buffer.context_end[2] - buffer.context_start[2] == 30
    assert set(stats.returns_by_conditioning) == {"prior", "posterior"}
    collector.collect(n_step=1)
    assert buffer.context_start[2] == 48


def test_a_task_drawn_twice_is_visited_twice_and_keeps_the_last_visits_context():
    collector = make(Schedule((), (Stage(6, "prior", True),)), tasks_per_iteration=5)
    collector.generator = draw_always(2, 5, 2, 2, 5)
    collector.collect(n_step=1)
    visits = [tasks for tasks, _, _ in collector.policy.calls]
    assert visits == [[2, 5], [2, 5], [2]]
    buffer = collector.task_buffer
    assert buffer.head[[2, 5]].tolist() == [18, 12]
    assert (buffer.context_end - buffer.context_start)[[2, 5]].tolist() == [6, 6]


def test_collect_runs_whole_iterations_until_it_has_enough():
    collector = make(Schedule((), (Stage(6, "prior", True),)), tasks_per_iteration=1)
    fewest, usual = collector.steps_per_iteration()
    assert (fewest, usual) == (6, 6)
    assert collector.collect(n_step=30).n_collected_steps >= 30
    assert collector.collect(n_episode=3).n_collected_episodes >= 3
    with pytest.raises(ValueError, match="one of n_step and n_episode"):
        collector.collect()
    with pytest.raises(ValueError, match="supports neither random actions"):
        collector.collect(n_step=1, random=True)


def test_same_generators_collect_the_same():
    buffers = []
    for _ in range(2):
        collector = make(Schedule((), (Stage(6, "prior", True),)))
        collector.collect(n_step=100)
        buffers.append(collector.task_buffer.state_arrays())
    assert all(np.array_equal(a, b) for a, b in zip(*(x.values() for x in buffers), strict=True))


def test_misfits_are_refused():
    with pytest.raises(ValueError, match="autoreset_mode='Disabled'"):
        make(Schedule((), ()), mode=AutoresetMode.SAME_STEP)
    collector = make(Schedule((), (Stage(6, "prior", True),)))
    collector.horizon = collector.rollouts.horizon = 4
    with pytest.raises(RuntimeError, match="continued after 4 steps"):
        collector.collect(n_step=1)
