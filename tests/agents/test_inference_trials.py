"""PEARL* and off-policy RL2: trials in collection, in evaluation and in other processes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import ACT, OBS, box, build
from inference_data import PEARL, RL2, filled
from test_run import ENV, OVERRIDES

from metarl_agents import train
from metarl_agents.algorithms.pearl_star import PearlStar
from metarl_agents.algorithms.rl2_off_policy import RL2OffPolicy, trial_inputs
from metarl_agents.networks.lstm import LSTMState, Memory
from metarl_agents.priors.learner import LOG_MU
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.trials import TRIAL_STEP, TrialRows, draw_trials, running_trials
from metarl_agents.run.checkpoint import newest_checkpoint, read_checkpoint, unprefixed
from metarl_agents.run.evaluate import load_agent
from metarl_envs.evaluation import Trial

TWO_TASKS = Trial(
    num_tasks=2, observation_space=box(OBS), action_space=box(ACT), horizon=3, adaptation_episodes=1,
    scored_episodes=1, episodes_per_update=1, deterministic=False, seed=0,
)  # fmt: skip


def test_what_follows_a_sequence_does_not_change_its_state():
    memory = Memory(3, (4,), 5, generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(3, 6, 3)
    length = torch.tensor([0, 2, 6])
    found = memory.state_after(inputs, length)
    changed = inputs.clone()
    changed[0], changed[1, 2:] = 7.0, 7.0
    again = memory.state_after(changed, length)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert torch.equal(found.hidden[0], torch.zeros(5))
    torch.testing.assert_close(memory.output_after(inputs, length), found.hidden)
    states = memory.states(inputs, memory.start(3))
    torch.testing.assert_close(memory(inputs, memory.start(3)), states.hidden)
    torch.testing.assert_close(found.cell[1:], torch.stack((states.cell[1, 1], states.cell[2, 5])))


@pytest.mark.long
@pytest.mark.parametrize("agent", ["pearl_star", "rl2_off_policy"])
def test_collected_trials_are_those_of_the_policy(agent, tmp_path):
    """With an untrained run: densities and numbers of steps agree with the whole trials."""
    settings = [text for text in OVERRIDES[agent] if not text.startswith("learner_use")]
    run = train(
        agent, ENV, out=tmp_path / "run", seed=7, steps=80 * 20 + 180, progress=False,
        overrides=[*settings, "learner_use=1e-6"],
    )  # fmt: skip
    made = load_agent(run.run_dir)
    arrays = unprefixed("buffer", read_checkpoint(newest_checkpoint(run.run_dir / "checkpoints")).arrays)
    buffer = TaskReplayBuffer(
        80, 100, 2, 2, generator=np.random.default_rng(0), info_keys=(LOG_MU, TRIAL_STEP)
    )
    buffer.load_state_arrays(arrays)
    trials = draw_trials(buffer, np.arange(80))
    # Trials of one episode before training, then of three.
    assert set(trials.length) <= {20, 60}
    running = running_trials(buffer, np.arange(80))
    assert sorted(set(running.length)) == [20, 60]
    numbers = buffer.info[TRIAL_STEP].take(running.rows)
    assert np.array_equal(numbers[running.valid], np.nonzero(running.valid)[1])
    if agent == "rl2_off_policy":
        policy = made.policy
        with torch.no_grad():
            inputs = policy.tensor(trial_inputs(buffer, running))
            memory = policy.networks.actor_memory
            hidden = memory(inputs, memory.start(80))
            expected = policy.networks.actor(hidden).log_prob(policy.tensor(buffer.act.take(running.rows, 0)))
        found = buffer.info[LOG_MU].take(running.rows)
        np.testing.assert_allclose(
            found[running.valid], expected.numpy()[running.valid], rtol=1e-4, atol=1e-5
        )


def test_in_an_evaluation_the_state_is_that_of_the_steps_of_each_task():
    """The second task's first episode ends after two steps, while the first one's goes on."""
    config = dataclasses.replace(RL2, memory_hidden=())
    ours = build(RL2OffPolicy, config, num_tasks=3)
    agent = ours.trial_agent()
    agent.begin_trial(TWO_TASKS)
    g = np.random.default_rng(0)
    inputs = [[], []]
    previous = np.zeros((2, ACT + 2))
    for episode in range(2):
        for step in range(3):
            obs = g.normal(size=(2, OBS)).astype(np.float32)
            active = np.array([True, step < 2 or episode == 1])
            actions = agent.act(obs)
            reward = g.normal(size=2)
            for task in np.flatnonzero(active):
                inputs[task].append(np.concatenate((obs[task], previous[task])))
                previous[task] = [*actions[task].clip(-1, 1), reward[task], 0.0]
            agent.observe(
                SimpleNamespace(
                    observation=obs, action=actions, reward=reward, next_observation=obs, active=active
                )
            )
        agent.end_episode()
        previous[:, -1] = 1.0
    memory = ours.policy.networks.actor_memory
    for task in range(2):
        sequence = torch.as_tensor(np.array(inputs[task]), dtype=torch.float32)[None]
        expected = memory.state_after(sequence, torch.tensor([len(inputs[task])]))
        torch.testing.assert_close(agent.policy.memory.hidden[task], expected.hidden[0])
    np.testing.assert_allclose(agent.policy.previous_RI.numpy(), previous, rtol=1e-6)


def test_z_is_kept_through_an_episode_and_drawn_from_the_posterior_of_the_trial():
    ours = build(PearlStar, PEARL, num_tasks=3)
    agent = ours.trial_agent()
    agent.begin_trial(TWO_TASKS)
    g = np.random.default_rng(0)
    seen = []
    steps = [[], []]
    for _ in range(2):
        for step in range(3):
            obs, following = g.normal(size=(2, 2, OBS)).astype(np.float32)
            active = np.array([True, step == 0])
            actions = agent.act(obs)
            seen.append(agent.policy.latent_RZ.clone())
            reward = g.normal(size=2)
            for task in np.flatnonzero(active):
                one_step = (obs[task], actions[task].clip(-1, 1), [reward[task]], following[task])
                steps[task].append(np.concatenate(one_step))
            agent.observe(
                SimpleNamespace(
                    observation=obs, action=actions, reward=reward, next_observation=following, active=active
                )
            )
        agent.end_episode()
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[3], seen[5])
    assert not torch.equal(seen[2], seen[3])
    encoder = ours.policy.networks.encoder
    expected = [
        encoder(torch.as_tensor(np.array(s), dtype=torch.float32)[None], torch.tensor([len(s)]))[0][0]
        for s in steps
    ]
    found = encoder.gaussian(agent.memory.hidden, agent.empty_T)[0]
    torch.testing.assert_close(found, torch.stack(expected))
    mean, variance = encoder(torch.randn(1, 0, 2 * OBS + ACT + 1), torch.tensor([0]))
    assert mean.tolist() == [[0.0, 0.0]]
    assert variance.tolist() == [[1.0, 1.0]]


def test_the_state_of_some_rollouts_is_refused():
    ours = build(RL2OffPolicy, RL2, num_tasks=3)
    with pytest.raises(ValueError, match="rows must be None"):
        ours.policy.act(torch.zeros(1, OBS), np.array([0]), deterministic=False)
    with pytest.raises(ValueError, match="must be 'trial', not 'task'"):
        ours.policy.begin_rollouts(np.array([0]), "task", filled())


def test_the_state_travels_to_other_processes():
    buffer = filled()
    for algorithm, config in ((RL2OffPolicy, RL2), (PearlStar, PEARL)):
        a, b = (build(algorithm, config, num_tasks=3) for _ in range(2))
        a.policy.begin_rollouts(np.arange(3), "trial", buffer)
        b.policy.prepare(a.policy.prepared(), 3)
        b.policy.generator.set_state(a.policy.generator.get_state())
        obs = torch.randn(3, OBS)
        for _ in range(2):
            first = a.policy.act(obs, None, deterministic=False)
            assert torch.equal(first, b.policy.act(obs, None, deterministic=False))
            for made in (a, b):
                made.policy.observe(obs, first, torch.ones(3))
        assert a.policy.columns[TRIAL_STEP].tolist() == [8.0, 12.0, 7.0]


def test_a_state_is_a_pair_of_tensors():
    start = Memory(2, (), 3, generator=torch.Generator()).start(4)
    assert isinstance(start, LSTMState)
    assert start.hidden.shape == start.cell.shape == (4, 3)
    assert TrialRows(np.zeros((1, 2), np.int64), np.array([1]), np.array([0])).valid.tolist() == [
        [True, False]
    ]
