"""Collecting and adapting in trials, driven through a real environment; evaluation does the same."""

import threading

import numpy as np
import pytest
import torch

import metarl_agents.trials.algorithm
import metarl_envs
from metarl_agents.algorithms.joint_oracle import JointOracle, JointOracleConfig
from metarl_agents.algorithms.maml import MAML, MAMLConfig
from metarl_agents.algorithms.promp import ProMP, ProMPConfig
from metarl_agents.common.threads import in_order
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.registry import find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.run.monitor import environment_arguments
from metarl_agents.trials.adaptation import distribution, likelihood_loss
from metarl_agents.trials.collector import TrialCollector
from metarl_agents.trials.episodes import collect_episodes, task_steps
from metarl_agents.trials.trust_region import flat
from metarl_envs.evaluation import Protocol, Trial, evaluate

# Walkers fall: their episodes end early.
WALKER, POINT = "MetaWalker2d-Params-v0", "MetaPoint-Goal-v0"
SMALL = {"hidden": (8,), "tasks_per_iteration": 3, "episodes_per_task": 2, "checkpoint_every": 1}


def parts_of(agent, config, env_id=POINT, seed=3, threads=1):
    return assemble(agent, env_id, config, seed=seed, device=torch.device("cpu"), threads=threads)


def everything(policy):
    return flat([p.detach() for p in policy.model.parameters()]).clone()


def test_episodes_are_those_of_a_plain_loop():
    family = metarl_envs.family(WALKER)
    tasks = family.tasks("train")[:2]
    venv = metarl_envs.MetaVectorEnv(WALKER, 6, autoreset_mode="Disabled", num_threads=1)
    venv.reset(seed=0)
    noise = np.random.default_rng(0).normal(size=(family.horizon, 6, 6)).astype(np.float32) * 2
    steps = iter(range(family.horizon))
    seen = []
    episodes = collect_episodes(
        GymVectorEnvAdapter(venv),
        tasks,
        3,
        family.horizon,
        lambda obs: noise[next(steps)],
        lambda *step: seen.append(step[3].copy()),
    )
    assert episodes.lengths.shape == (2, 3)
    assert episodes.lengths.min() < episodes.lengths.max() < family.horizon
    assert (np.array(seen).sum(0).reshape(2, 3) == episodes.lengths).all()
    # Kept as drawn, though the environment is given actions in its box.
    assert np.abs(episodes.act).max() > 1
    for row in range(6):
        env = metarl_envs.MetaEnv(WALKER, task=tasks[row // 3])
        env.reset(seed=0 + row)  # construction's reset, as of the vector environment
        obs, _ = env.reset()
        place = (row // 3, row % 3)
        for step in range(episodes.lengths[place]):
            np.testing.assert_array_equal(episodes.obs[place][step], obs)
            obs, reward, terminated, truncated, _ = env.step(noise[step, row].clip(-1, 1))
            assert episodes.reward[place][step] == reward
        assert terminated or truncated
        env.close()
    venv.close()
    sample = task_steps(episodes, gamma=0.9, gae_lambda=1.0, device=torch.device("cpu"))
    counts = episodes.lengths.sum(1)
    assert sample.obs.shape[:2] == (2, counts.max())
    np.testing.assert_allclose(sample.weight.sum(1), 1.0, rtol=1e-6)
    for task in range(2):
        valid = episodes.valid[task]
        np.testing.assert_array_equal(sample.act[task, : counts[task]], episodes.act[task][valid])
        assert not sample.weight[task, counts[task] :].any()


def test_the_number_of_simulations_must_fit():
    venv = metarl_envs.MetaVectorEnv(POINT, 5, autoreset_mode="Disabled")
    with pytest.raises(ValueError, match="2 tasks with 3 episodes need 6 simulations, not 5"):
        collect_episodes(GymVectorEnvAdapter(venv), (1, 2), 3, 20, lambda obs: obs)
    venv.close()


def test_a_collector_refuses_environments_that_reset_themselves():
    parts = parts_of("promp", ProMPConfig(**SMALL))
    env = metarl_envs.MetaVectorEnv(POINT, 6, autoreset_mode="SameStep")
    with pytest.raises(ValueError, match="autoreset_mode='Disabled'"):
        TrialCollector(
            policy=parts.algorithm.policy, trials=parts.collector.trials, env=GymVectorEnvAdapter(env),
            tasks=(), tasks_per_iteration=3, batch_names=("before",), generator=np.random.default_rng(0),
        )  # fmt: skip
    with pytest.raises(ValueError, match="one of n_step and n_episode"):
        parts.collector.collect()
    env.close()
    parts.env.close()


@pytest.mark.parametrize("env_id", [POINT, WALKER])
def test_a_trial_is_an_inner_step_between_two_batches(env_id):
    parts = parts_of("maml", MAMLConfig(**SMALL, inner_step_size=0.3), env_id)
    policy = parts.algorithm.policy
    stats = parts.collector.collect(n_step=1)
    before, after = policy.samples
    assert stats.n_collected_episodes == 12
    assert set(stats.returns_by_conditioning) == {"before", "after"}
    # By hand, task by task: the gradient at the start, the step, the policy that acted afterwards.
    for task in range(3):
        rows = slice(task, task + 1)
        model = policy.model
        first, second = before.rows(rows), after.rows(rows)
        torch.testing.assert_close(model(first.obs[0]).mean, first.old.mean[0])
        real = first.weight[0] > 0
        log_prob = model(first.obs[0][real]).log_prob(first.act[0][real])
        loss = -(log_prob * first.advantage[0][real]).mean()
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        names = [name for name, _ in model.named_parameters()]
        own = {
            name: (p - 0.3 * g).detach()[None]
            for name, p, g in zip(names, model.parameters(), gradient, strict=True)
        }
        acted = model.distribution(second.obs, own, None)
        torch.testing.assert_close(acted.mean, second.old.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(acted.log_std[0, 0], second.old.log_std[0, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(second.old_log_prob, acted.log_prob(second.act), rtol=1e-3, atol=1e-3)
    parts.env.close()


def test_evaluation_adapts_as_training_does():
    """The agent's second batch acts on what the collector's inner step would have made of its first."""
    config = MAMLConfig(**SMALL, inner_step_size=0.3)
    parts = parts_of("maml", config)
    algorithm = parts.algorithm
    agent = algorithm.trial_agent()
    taken = []
    take = algorithm.policy.take
    algorithm.policy.take = lambda episodes: (taken.append(episodes), take(episodes))
    protocol = Protocol(
        adaptation_episodes=4, scored_episodes=2, episodes_per_update=2, num_tasks=3, deterministic=True
    )
    report = evaluate(agent, POINT, protocol)
    assert len(taken) == 2
    assert taken[0].obs.shape == (3, 2, 20, 2)
    np.testing.assert_allclose(taken[1].returns, report.returns[0][:, 2:4])
    policy = algorithm.policy
    # Two steps from the same start, each along the gradient at the parameters that acted.
    sample = policy.samples[0]
    start = policy.model.start(3)
    loss = likelihood_loss(distribution(policy.model, start, sample), sample)
    slopes = torch.autograd.grad(loss.sum(), list(policy.model.parameters()))
    assert not torch.equal(flat(list(policy.own.values())), flat(list(start.values())))
    first = {n: v - 0.3 * g for (n, v), g in zip(start.items(), _per_task(policy, sample), strict=True)}
    second = policy.model.distribution(policy.samples[1].obs, first, None)
    torch.testing.assert_close(second.mean, policy.samples[1].old.mean, rtol=1e-4, atol=1e-5)
    assert len(slopes) == len(start)
    # Scored episodes are deterministic here, and nothing is learned from them.
    again = evaluate(agent, POINT, protocol)
    assert np.array_equal(again.returns, report.returns)
    parts.env.close()


@pytest.mark.long
@pytest.mark.parametrize("agent", ["maml", "promp", "meta_sgd", "adapt_sv", "tesp", "rl2", "joint_oracle"])
def test_every_agent_is_evaluated_where_episodes_end_early(agent):
    config = find_agent(agent).config(WALKER, "fast", {"hidden": "8", "tasks_per_iteration": 2})
    parts = parts_of(agent, config, WALKER)
    protocol = Protocol(
        adaptation_episodes=6, scored_episodes=2, episodes_per_update=2, num_tasks=3, deterministic=False
    )
    report = evaluate(parts.algorithm.trial_agent(), WALKER, protocol)
    assert len(np.unique(report.lengths)) > 5
    assert report.lengths.max() < 200
    assert np.isfinite(report.returns).all()
    parts.env.close()


@pytest.mark.parametrize("agent", ["maml", "rl2"])
def test_the_environment_gets_the_action_divided_by_its_scale(agent, monkeypatch):
    """In training and in evaluation; what is learned from is the action as drawn."""
    config_class = find_agent(agent).load().config_class
    parts = parts_of(agent, config_class(**SMALL, action_scale=10.0))
    given = []
    step_arrays = parts.env.step_arrays
    monkeypatch.setattr(
        parts.env, "step_arrays", lambda act, mask=None: (given.append(act), step_arrays(act, mask))[1]
    )
    policy, taken = parts.algorithm.policy, []
    take = policy.take
    policy.take = lambda episodes: (taken.append(episodes), take(episodes))
    parts.collector.collect(n_step=1)
    drawn = np.concatenate([batch.act.reshape(6, 20, 2).swapaxes(0, 1) for batch in taken])
    np.testing.assert_allclose(np.array(given), drawn.clip(-10, 10) / 10, rtol=1e-6)
    assert np.abs(drawn).max() > 1
    agent = parts.algorithm.trial_agent()
    evaluate(agent, POINT, Protocol(adaptation_episodes=2, episodes_per_update=2, num_tasks=3))
    agent.begin_trial(
        Trial(
            num_tasks=3,
            observation_space=parts.env.venv.single_observation_space,
            action_space=parts.env.venv.single_action_space,
            horizon=20,
            adaptation_episodes=2,
            scored_episodes=1,
            episodes_per_update=2,
            deterministic=False,
            seed=0,
        )
    )
    actions = agent.act(np.zeros((3, 2), np.float32))
    np.testing.assert_allclose(actions, agent.actions.clip(-10, 10) / 10, rtol=1e-6)
    parts.env.close()


@pytest.mark.long
@pytest.mark.parametrize("agent", ["maml", "promp", "meta_sgd", "tesp", "joint_oracle"])
def test_an_update_does_not_depend_on_the_number_of_threads(agent, monkeypatch):
    small = {"hidden": "8", "tasks_per_iteration": 5, "episodes_per_task": 2}
    config = find_agent(agent).config(POINT, "fast", small)
    found, used = [], set()

    def recorded(work, parts, threads):
        parts = list(parts)
        used.add((len(parts), threads))
        return in_order(work, parts, threads)

    monkeypatch.setattr(metarl_agents.trials.algorithm, "in_order", recorded)
    for threads in (1, 3):
        parts = parts_of(agent, config, threads=threads)
        # Pieces of one task each.
        parts.algorithm.policy.piece_tasks = 1
        parts.collector.collect(n_step=1)
        used.clear()
        losses = list(parts.algorithm.outer_steps())
        assert used == {(5, threads)}
        found.append((losses, everything(parts.algorithm.policy)))
        parts.env.close()
    assert torch.equal(found[0][1], found[1][1])
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert {k: float(v) for k, v in one.items()} == {k: float(v) for k, v in other.items()}


def test_threads_work_on_different_parts_at_the_same_time():
    """Each of two waits until the other has begun."""
    meeting = threading.Barrier(2)

    def work(part):
        meeting.wait(timeout=60)
        return 10 * part

    assert in_order(work, range(6), 2) == [0, 10, 20, 30, 40, 50]


def test_later_steps_of_an_evaluation_may_be_shorter():
    config = MAMLConfig(**SMALL, inner_step_size=0.3, later_step_scale=0.5)
    parts = parts_of("maml", config)
    policy = parts.algorithm.policy
    protocol = Protocol(adaptation_episodes=6, episodes_per_update=2, num_tasks=3)
    evaluate(parts.algorithm.trial_agent(), POINT, protocol)
    own = policy.model.start(3)
    for sample, alpha in zip(policy.samples, (0.3, 0.15, 0.15), strict=True):
        own = {name: value.detach().requires_grad_() for name, value in own.items()}
        loss = likelihood_loss(distribution(policy.model, own, sample), sample)
        slopes = torch.autograd.grad(loss.sum(), list(own.values()))
        own = {n: v - alpha * g for (n, v), g in zip(own.items(), slopes, strict=True)}
    for name, value in own.items():
        torch.testing.assert_close(policy.own[name], value.detach(), rtol=1e-4, atol=1e-5)
    assert "later_step_scale" in MAMLConfig.evaluation_keys  # `metarl evaluate --set later_step_scale=0.5`
    parts.env.close()


def test_a_run_may_have_a_time_limit_of_its_own():
    config = MAMLConfig(**SMALL, horizon=7)
    parts = parts_of("maml", config)
    stats = parts.collector.collect(n_step=1)
    assert set(stats.lens) == {7}
    # Its evaluations have it too.
    protocol = Protocol(adaptation_episodes=1, num_tasks=2)
    arguments = environment_arguments(config, 1)
    report = evaluate(parts.algorithm.trial_agent(), POINT, protocol, env_arguments=arguments)
    assert (report.lengths == 7).all()
    parts.env.close()


def test_tasks_are_visited_once_where_there_are_enough(monkeypatch):
    drawn = []
    for env_id, tasks in ((POINT, 40), ("MetaHalfCheetah-Dir-v0", 4)):
        config = MAMLConfig(hidden=(8,), tasks_per_iteration=tasks, episodes_per_task=1, horizon=2)
        parts = parts_of("maml", config, env_id)
        set_tasks = parts.env.venv.set_tasks
        monkeypatch.setattr(
            parts.env.venv,
            "set_tasks",
            lambda chosen, set_tasks=set_tasks: (drawn.append(chosen), set_tasks(chosen)),
        )
        parts.collector.collect(n_step=1)
        parts.env.close()
    points, directions = drawn[0], drawn[-1]
    assert len({task.index for task in points}) == 40
    assert len(directions) == 4


def _per_task(policy, sample):
    own = {name: v.detach().requires_grad_() for name, v in policy.model.start(len(sample.obs)).items()}
    loss = likelihood_loss(distribution(policy.model, own, sample), sample)
    return torch.autograd.grad(loss.sum(), list(own.values()))


def test_promp_lowers_its_loss_and_its_penalty_follows_the_divergence():
    target = 2e-4
    parts = parts_of("promp", ProMPConfig(**SMALL, outer_steps=3, kl_penalty=1.0, kl_target=target))
    algorithm = parts.algorithm
    parts.collector.collect(n_step=1)
    found = [{k: float(v) for k, v in losses.items()} for losses in algorithm.outer_steps()]
    # Before the first step the adapted policies are those that acted, and nothing has moved.
    assert found[0]["surrogate"] == pytest.approx(0.0, abs=1e-6)
    assert found[0]["policy_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found[0]["start_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found[-1]["surrogate"] < found[0]["surrogate"]
    # Where the last step has led to, not where it began: the two decide otherwise here.
    model, sample = algorithm.policy.model, algorithm.policy.samples[0]
    now = model.distribution(sample.obs, model.start(3), None)
    last = float((now.kl_from(sample.old) * sample.weight).sum(-1).mean().detach())
    assert algorithm.start_kl() == pytest.approx(last, rel=1e-5)
    before = found[-1]["start_kl"]
    assert before < target / 1.5 < last
    factor = 2.0 if last > 1.5 * target else 0.5 if last < target / 1.5 else 1.0
    assert float(algorithm.kl_penalty) == factor
    assert "kl_penalty" in algorithm.network_state()
    parts.env.close()


@pytest.mark.parametrize("second_order", [True, False])
def test_mamls_step_keeps_to_its_region(second_order):
    config = MAMLConfig(**SMALL, trust_radius=0.02, curvature_fraction=0.5, second_order=second_order)
    parts = parts_of("maml", config)
    before = everything(parts.algorithm.policy)
    for _ in range(3):
        parts.collector.collect(n_step=1)
        (found,) = parts.algorithm.outer_steps()
        assert float(found["policy_kl"]) <= 0.02
        assert (float(found["step_length"]) > 0) == (float(found["policy_kl"]) > 0)
    assert not torch.equal(everything(parts.algorithm.policy), before)
    parts.env.close()


def test_order_changes_nothing_but_the_curvature_term():
    found = {}
    for second_order in (True, False):
        config = MAMLConfig(**SMALL, second_order=second_order, inner_step_size=0.5, curvature_fraction=1.0)
        parts = parts_of("maml", config)
        parts.collector.collect(n_step=1)
        samples = parts.algorithm.policy.samples
        next(parts.algorithm.outer_steps())
        found[second_order] = (samples, everything(parts.algorithm.policy))
        parts.env.close()
    for first, second in zip(found[True][0], found[False][0], strict=True):
        assert torch.equal(first.obs, second.obs)
        assert torch.equal(first.act, second.act)
    assert not torch.equal(found[True][1], found[False][1])


def test_the_joint_oracle_observes_the_task_and_does_not_adapt():
    parts = parts_of("joint_oracle", JointOracleConfig(**SMALL))
    assert JointOracle.observe_task
    assert not MAML.observe_task
    assert not ProMP.observe_task
    stats = parts.collector.collect(n_step=1)
    assert set(stats.returns_by_conditioning) == {"task"}
    (sample,) = parts.algorithm.policy.samples
    # Two numbers of position, two of the goal; the goal is the task's own in all of its steps.
    assert sample.obs.shape == (3, 40, 4)
    assert (sample.obs[..., 2:] == sample.obs[:, :1, 2:]).all()
    (losses,) = parts.algorithm.outer_steps()
    assert float(losses["policy_kl"]) <= 0.01
    protocol = Protocol(adaptation_episodes=2, scored_episodes=2, num_tasks=3, deterministic=True)
    agent = parts.algorithm.trial_agent()
    before = everything(parts.algorithm.policy)
    report = evaluate(agent, POINT, protocol)
    assert report.returns.shape == (1, 3, 4)
    assert not agent.policy.samples
    assert torch.equal(everything(parts.algorithm.policy), before)
    parts.env.close()
