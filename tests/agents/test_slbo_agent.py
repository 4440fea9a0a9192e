"""Multi-task SLBO as a run and as an agent that adapts."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_run import OVERRIDES, assert_same_outcome, interrupt_after, tiny
from torch.utils.tensorboard import SummaryWriter

import metarl_envs
from metarl_agents import load_agent, resume, train
from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.registry import find_agent
from metarl_agents.run.checkpoint import newest_checkpoint, read_checkpoint
from metarl_agents.run.evaluate import evaluate_run
from metarl_agents.slbo.config import SLBOConfig
from metarl_agents.slbo.rollouts import RealSimulations
from metarl_agents.slbo.schedule import Schedule
from metarl_agents.slbo.virtual_env import VirtualVectorEnv
from metarl_envs import evaluation
from metarl_envs.evaluation import unfinished

pytestmark = pytest.mark.long
CHEETAH, ANT = "MetaHalfCheetah-VelShort-v0", "MetaAnt-VelShort-v0"
PROTOCOL = evaluation.Protocol(
    adaptation_episodes=4, episodes_per_update=2, scored_between=2, scored_episodes=2, deterministic=False,
    num_tasks=2, name="short",
)  # fmt: skip
EXPLORING = [PROTOCOL.adapting(number) for number in range(PROTOCOL.num_episodes)]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slbo") / "run"
    # Three tasks.
    assert tiny(folder, "slbo", steps=600).finished
    return folder


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def everything(agent):
    trained = agent.trained
    modules = {**trained.dynamics.state_dict(), **trained.value.state_dict()}
    return {name: value.clone() for name, value in modules.items()} | {
        name: torch.from_numpy(array.copy()) for name, array in trained.store.state_arrays().items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- training ---------------------------------------------------------------------------------------


def test_a_task_is_collected_after_its_warm_up(run_dir):
    found = records(run_dir)
    assert [r["env_steps"] for r in found] == [200, 200, 200, 400, 400, 400, 600]
    assert [r["gradient_steps"] for r in found] == [1, 2, 3, 4, 5, 6, 6]
    collected = [r for r in found if "collect/task" in r]
    assert [r["collect/trained_tasks"] for r in collected] == [1, 2, 3]
    assert [r["collect/measured_steps"] for r in collected] == [0, 200, 400]
    assert len({r["collect/task"] for r in collected}) == 3
    # There is nothing to warm up in before the first steps, and nothing is rated.
    assert "collect/return_after" not in collected[0]
    assert all({"collect/return_after", "collect/rating"} <= set(r) for r in collected[1:])
    # The last inner iteration of the warm-up is the one before.
    for before, after in pairwise(found):
        if "collect/virtual_return" in after:
            assert before["update/virtual_return"] == after["collect/virtual_return"]


def test_policies_are_fresh_and_values_dynamics_and_noise_persist():
    from metarl_agents.run.assembly import assemble

    config = find_agent("slbo").config(CHEETAH, "fast", parse_overrides(OVERRIDES["slbo"]))
    parts = assemble("slbo", CHEETAH, config, seed=3, device=torch.device("cpu"), threads=1)
    algorithm, collector = parts.algorithm, parts.collector
    first = {n: p.clone() for n, p in algorithm.policy.actor.state_dict().items()}
    collector.collect(n_step=1)
    begun = {n: p.clone() for n, p in algorithm.policy.actor.state_dict().items()}
    assert not same(first, begun)
    assert (begun["log_std"] == 0).all()
    kept = {
        name: value.clone()
        for name, value in algorithm.state_dict().items()
        if isinstance(value, torch.Tensor) and "actor" not in name
    }
    assert {name.partition(".")[0] for name in kept} == {"policy", "value", "exploration"}
    assert algorithm.exploration.value.abs().sum() > 0
    for _ in range(config.inner_iterations):
        list(algorithm.outer_steps())
    assert not torch.equal(kept["value.flat"], algorithm.value.flat)
    learned = algorithm.value.flat.clone()
    collector.collect(n_step=1)
    assert (algorithm.policy.actor.log_std == 0).all()
    assert torch.equal(learned, algorithm.value.flat)
    parts.env.close()


@pytest.mark.parametrize("selection", ["real", "estimated"])
def test_skipped_tasks_are_counted_with_what_they_cost(selection, tmp_path, monkeypatch):
    answers = iter([True, False, False, True, False, True] * 3)
    monkeypatch.setattr(Schedule, "passes", lambda self, rating: next(answers))
    changes = [text for text in OVERRIDES["slbo"] if not text.startswith(("selection", "inner_iterations"))]
    steps = 5 * 200
    train(
        "slbo", CHEETAH, out=tmp_path / "run", seed=1, steps=steps, progress=False,
        overrides=[*changes, f"selection={selection}", "inner_iterations=2"],
    )  # fmt: skip
    found = [r for r in records(tmp_path / "run") if "collect/task" in r]
    last = found[-1]
    rated = len(found) - 1  # the first task is not
    trained, skipped = last["collect/trained_tasks"], last["collect/skipped_tasks"]
    assert (trained, skipped) == (1 + (rated - skipped), skipped)
    assert skipped > 0
    if selection == "real":
        assert last["collect/rating_steps"] == 200 * rated
        assert last["collect/measured_steps"] == 0
        assert last["env_steps"] == 200 * trained + 200 * rated
    else:
        assert last["collect/rating_steps"] == 0
        assert last["env_steps"] == 200 * trained == steps
    for before, after in pairwise(found):
        is_skipped = after["collect/skipped_tasks"] > before["collect/skipped_tasks"]
        assert ("collect/new_model_error" in after) == (not is_skipped)
        assert ("collect/return_mean" in after) == (not is_skipped)


def test_the_best_candidate_of_a_window_is_trained_on_with_its_policy(tmp_path, monkeypatch):
    from metarl_agents.algorithms.slbo import SLBOPolicy

    ratings = iter([1.0, 5.0, 2.0, 7.0, 3.0, 4.0])
    offered, taken = [], []
    monkeypatch.setattr(Schedule, "estimated_rating", lambda self: next(ratings))
    original = Schedule.offer, SLBOPolicy.take_kept

    def offer(self, rating, wanted):
        offered.append(self.task)
        return original[0](self, rating, wanted)

    def take_kept(self):
        original[1](self)
        taken.append({n: p.clone() for n, p in self.actor.state_dict().items()})

    monkeypatch.setattr(Schedule, "offer", offer)
    monkeypatch.setattr(SLBOPolicy, "take_kept", take_kept)
    kept, keep = [], SLBOPolicy.keep
    monkeypatch.setattr(
        SLBOPolicy,
        "keep",
        lambda self: (keep(self), kept.append({n: p.clone() for n, p in self.actor.state_dict().items()})),
    )
    changes = [text for text in OVERRIDES["slbo"] if not text.startswith(("selection", "inner_iterations"))]
    train(
        "slbo", CHEETAH, out=tmp_path / "run", seed=1, steps=600, progress=False,
        overrides=[*changes, "selection=window", "candidates=3", "inner_iterations=2"],
    )  # fmt: skip
    last = records(tmp_path / "run")[-1]
    assert (last["collect/trained_tasks"], last["collect/skipped_tasks"]) == (3, 4)
    assert last["env_steps"] == 600
    assert len(offered) == 6
    # Ratings 1, 5, 2: kept are the first and the second; 7, 3, 4: the first.
    assert len(kept) == 3
    assert same(taken[0], kept[1])
    assert same(taken[1], kept[2])


def test_a_window_interrupted_between_candidates_goes_on(tmp_path, monkeypatch):
    changes = [text for text in OVERRIDES["slbo"] if not text.startswith("selection")]
    arguments = {
        "seed": 1, "steps": 400, "progress": False,
        "overrides": [*changes, "selection=window", "candidates=2"],
    }  # fmt: skip
    train("slbo", CHEETAH, out=tmp_path / "whole", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", interrupt_after(5))
        cut = train("slbo", CHEETAH, out=tmp_path / "cut", **arguments)
    values = read_checkpoint(newest_checkpoint(tmp_path / "cut/checkpoints")).values
    assert len(values["collector"]["schedule"]["candidates"]) == 1
    assert not cut.finished
    assert resume(tmp_path / "cut", progress=False).finished
    assert_same_outcome(tmp_path / "cut", tmp_path / "whole")


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="have a reward model"):
        train("slbo", "MetaPoint-Goal-v0", out=tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="without --actors"):
        tiny(tmp_path / "b", "slbo", actors=2)
    with pytest.raises(ConfigError, match="capacity must be at least the 200 steps"):
        tiny(tmp_path / "c", "slbo", overrides=["capacity=100"])
    with pytest.raises(ConfigError, match="at least 2 inner_iterations"):
        SLBOConfig(selection="window", inner_iterations=1)


# -- adaptation -------------------------------------------------------------------------------------


def test_adaptation_leaves_what_was_learned_untouched(run_dir):
    agent = load_agent(run_dir)
    before = everything(agent)
    report = evaluation.evaluate(agent, CHEETAH, PROTOCOL)
    assert report.returns.shape == (1, 2, 10)
    assert same(before, everything(agent))
    learners = agent.learners
    assert all(len(learner.own["obs"]) == 4 * 200 for learner in learners)
    assert not same(learners[0].policy.state_dict(), learners[1].policy.state_dict())
    assert not torch.equal(learners[0].dynamics.weights[0], learners[1].dynamics.weights[0])
    assert learners[0].dynamics.states.count == before["states.count"] + 4 * 200
    # A warm-up of each task before and after every stage.
    assert len(agent.diagnostics()) == 2 * 3
    assert np.isfinite([list(record.values()) for record in agent.diagnostics()]).all()


def test_tasks_together_are_tasks_alone(run_dir):
    both = evaluation.evaluate(load_agent(run_dir), CHEETAH, PROTOCOL)
    alone = evaluation.Protocol.from_dict(PROTOCOL.to_dict() | {"num_tasks": 1})
    first = evaluation.evaluate(load_agent(run_dir), CHEETAH, alone)
    assert np.array_equal(both.returns[:, :1], first.returns)


def test_exploration_noise_is_in_adaptation_episodes_only(run_dir):
    agent = load_agent(run_dir)
    acted = []
    original = agent.observe
    agent.observe = lambda transition: (acted.append(transition.action), original(transition))
    quiet = evaluation.Protocol.from_dict(PROTOCOL.to_dict() | {"deterministic": True, "num_tasks": 1})
    evaluation.evaluate(agent, CHEETAH, quiet)
    steps = np.stack(acted).reshape(quiet.num_episodes, 200, 6)
    jumps = np.abs(np.diff(steps, axis=1)).mean((1, 2))
    assert jumps[EXPLORING].min() > 2 * jumps[np.logical_not(EXPLORING)].max()


def test_an_interrupted_evaluation_continues_bit_for_bit(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "INTERVAL", 0.0)
    whole = evaluate_run(run_dir, protocol=PROTOCOL, references=False)
    (run_dir / "report_test_short.json").unlink()
    for stop in (3, 7):  # inside and between stages

        def interrupt(done, total, stop=stop):
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run_dir, protocol=PROTOCOL, references=False, progress=interrupt)
    assert (run_dir / "unfinished_test_short.npz").exists()
    said = []
    again = evaluate_run(run_dir, protocol=PROTOCOL, references=False, say=said.append)
    assert np.array_equal(again.returns, whole.returns)
    assert not (run_dir / "unfinished_test_short.npz").exists()
    assert said
    assert "warm-up after stage 2" in said[-1]


@pytest.mark.parametrize(
    ("dynamics", "kind"),
    [("learned", VirtualVectorEnv), ("initial", VirtualVectorEnv), ("true", RealSimulations)],
)
def test_policies_are_trained_in_the_dynamics_but_for_a_control(dynamics, kind, run_dir):
    agent = load_agent(run_dir, overrides=[f"dynamics={dynamics}"])
    assert type(agent.simulate(agent.trained.dynamics)) is kind


def test_controls_and_a_start_from_scratch(run_dir):
    untrained = load_agent(run_dir, overrides=["start=scratch"]).trained
    assert len(untrained.store) == 0
    assert untrained.dynamics.states.count == 0
    initial = load_agent(run_dir, overrides=["dynamics=initial"])
    trained = load_agent(run_dir).trained
    assert torch.equal(initial.trained.dynamics.weights[0], untrained.dynamics.weights[0])
    assert not torch.equal(trained.dynamics.weights[0], untrained.dynamics.weights[0])
    assert torch.equal(initial.trained.dynamics.states.mean, trained.dynamics.states.mean)
    evaluation.evaluate(initial, CHEETAH, PROTOCOL)
    for learner in initial.learners:
        assert torch.equal(learner.dynamics.weights[0], untrained.dynamics.weights[0])
    true = load_agent(run_dir, overrides=["dynamics=true"])
    evaluation.evaluate(true, CHEETAH, PROTOCOL)
    assert torch.equal(true.learners[0].dynamics.weights[0], trained.dynamics.weights[0])
    # Policies of the simulator: the virtual return is a real one.
    assert all(record["model_error"] == 0.0 for record in true.diagnostics())
    # Nothing to warm up in before the first stage, and the same afterwards.
    scratch = load_agent(run_dir, overrides=["start=scratch"])
    evaluation.evaluate(scratch, CHEETAH, PROTOCOL)
    assert len(scratch.diagnostics()) == 2 * 2


def test_episodes_that_end_early_are_whole_in_the_data(tmp_path):
    tiny(tmp_path / "run", "slbo", env=ANT, steps=400)
    agent = load_agent(tmp_path / "run")
    report = evaluation.evaluate(agent, ANT, PROTOCOL)
    lengths = report.lengths[0][:, EXPLORING]
    for task, learner in enumerate(agent.learners):
        assert len(learner.own["obs"]) == lengths[task].sum()
        ends = learner.own["ended"].nonzero().flatten().numpy() + 1
        assert np.array_equal(ends, lengths[task].cumsum())
        going_on = ~learner.own["ended"][:-1]
        assert torch.equal(learner.own["next_obs"][:-1][going_on], learner.own["obs"][1:][going_on])
    assert metarl_envs.family(ANT).horizon == 200
