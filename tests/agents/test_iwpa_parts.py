"""Networks, optimiser and steps of the adaptation, one task beside another."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import clip_grad_norm_

from metarl_agents.iwpa.stacked import TaskAdam, TaskNetworks, features, gaussian, outputs, stack
from metarl_agents.iwpa.steps import TaskSteps
from metarl_agents.networks.layer_norm import ActionValue, GaussianPolicy

OBS, ACT, TASKS, STD = 3, 2, 4, (0.3, 0.8, 1.3)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double")
def test_policies_of_many_tasks_are_those_of_single_ones():
    policies = [GaussianPolicy(OBS, 0, (8, 6), ACT, std=STD, generator=seeded(i)) for i in range(TASKS)]
    obs = randn(TASKS, 5, OBS)
    found = gaussian(stack(policies), STD, obs)
    for task, policy in enumerate(policies):
        expected = policy(obs[task])
        torch.testing.assert_close(found.mean[task], expected.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.log_std[task], expected.log_std, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_critics_of_many_tasks_are_those_of_single_ones():
    critics = [
        ActionValue(OBS, 0, ACT, (8, 7, 6), shared=False, described=False, generator=seeded(i))
        for i in range(TASKS)
    ]
    obs, act = randn(TASKS, 5, OBS), 2 * randn(TASKS, 5, 3, ACT, seed=1)
    parameters = stack(critics)
    found = outputs(
        features(parameters, obs, act), parameters["output.weight"][:, 0], parameters["output.bias"][:, 0]
    )
    for task, critic in enumerate(critics):
        for k in range(3):
            expected = critic(obs[task][None], torch.zeros(1, 0), act[task, :, k][None])[0]
            torch.testing.assert_close(found[task, :, k], expected, rtol=0, atol=1e-12)


def test_shared_features_of_many_tasks_do_not_depend_on_their_number():
    critic = ActionValue(OBS, 7, ACT, (8, 6), shared=True, described=False, generator=seeded(0))
    shared = stack([critic])
    obs, act = randn(TASKS, 40, OBS).float(), randn(TASKS, 40, 3, ACT, seed=1).float()
    together = features(shared, obs, act)
    for task in range(TASKS):
        alone = features(shared, obs[task : task + 1], act[task : task + 1])
        torch.testing.assert_close(alone[0], together[task], rtol=0, atol=1e-6)


def test_adam_of_each_task_is_that_of_pytorch():
    start = {"a": randn(TASKS, 3, 2), "b": randn(TASKS, 4, seed=1)}
    mine = TaskAdam({name: value.clone() for name, value in start.items()}, 0.01, max_norm=1.5)
    theirs = []
    for task in range(TASKS):
        leaves = [value[task].clone().requires_grad_() for value in start.values()]
        theirs.append((leaves, torch.optim.Adam(leaves, lr=0.01)))
    # Not all tasks make every step.
    for number, tasks in enumerate(([0, 1, 2, 3], [1, 3], [0], [0, 1, 2, 3])):
        gradients = {n: 2 * randn(*v.shape, seed=10 + number) for n, v in start.items()}
        mine.step({n: g[tasks] for n, g in gradients.items()}, torch.tensor(tasks))
        for task in tasks:
            leaves, optimiser = theirs[task]
            for leaf, gradient in zip(leaves, gradients.values(), strict=True):
                leaf.grad = gradient[task].clone()
            clip_grad_norm_(leaves, 1.5)
            optimiser.step()
    for task, (leaves, _) in enumerate(theirs):
        for leaf, found in zip(leaves, mine.parameters.values(), strict=True):
            torch.testing.assert_close(found[task], leaf.detach(), rtol=0, atol=1e-12)


def test_target_networks_follow_after_each_tasks_own_number_of_steps():
    networks = TaskNetworks({"w": torch.zeros(2, 3)}, ["w"], learning_rate=0.1, max_norm=1.0, target_period=2)
    one = {"w": torch.ones(1, 3)}
    for tasks, due in (([0], []), ([1], []), ([1], [1]), ([0], [0]), ([0], [])):
        assert networks.step(one, torch.tensor(tasks)).tolist() == due
    assert torch.equal(networks.target["w"][1], networks.online["w"][1])
    assert not torch.equal(networks.target["w"][0], networks.online["w"][0])


@given(
    lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    chunk=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_chunks_stay_in_an_episode_of_their_task(lengths, chunk, seed):
    """Also in the last one, which has not ended."""
    count = len(lengths)
    steps = TaskSteps(count, 40, 1, 1, torch.device("cpu"))
    episodes = max(map(len, lengths))
    for episode in range(episodes):
        long = [each[episode] if episode < len(each) else 0 for each in lengths]
        for step in range(max(long)):
            value = torch.tensor([[1000.0 * episode + step]] * count)
            steps.add(
                np.array([step < each for each in long]),
                obs=value, act=value, obs_next=value + 1, reward=value[:, 0], discount=value[:, 0],
                log_mu=value[:, 0],
            )  # fmt: skip
        if episode < episodes - 1:
            steps.end_episode()
    assert steps.count.tolist() == [sum(each) for each in lengths]
    generators = [np.random.default_rng(seed + i) for i in range(count)]
    chunks = steps.draw(np.arange(count), generators, 8, chunk)
    found, valid = (x.view(count, 8, chunk).numpy() for x in (chunks.of(steps.reward), chunks.valid))
    assert valid[..., 0].all()
    for task, each in enumerate(lengths):
        for row, good in zip(found[task], valid[task], strict=True):
            episode = int(row[0] // 1000)
            assert (row // 1000 == episode).all()
            assert (np.diff(row[good]) == 1).all()
            # Whole chunks, unless the episode is shorter than one.
            assert good.sum() == min(chunk, each[episode])
    # Alone, a task has the same chunks.
    alone = steps.draw(
        np.array([count - 1]), [np.random.default_rng(seed + i) for i in range(count)], 8, chunk
    )
    assert torch.equal(alone.rows[0], chunks.rows[-1])
