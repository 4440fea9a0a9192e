"""Runs of the multi-task agents: what can act on which tasks, descriptors, parts of the training tasks."""

import json

import numpy as np
import pytest
from test_run import TINY_MULTI_TASK
from typer.testing import CliRunner

import metarl_envs
from metarl_agents import evaluate_run, load_agent, train
from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_envs.evaluation import Protocol, evaluate

pytestmark = pytest.mark.long
ENV = "MetaPoint-SparseGoal-v0"


def tiny(out, agent, *overrides, env=ENV, steps=80 * 20 + 180):
    changes = [*TINY_MULTI_TASK, *overrides]
    return train(agent, env, out=out, overrides=changes, seed=3, steps=steps, progress=False).run_dir


@pytest.fixture(scope="module")
def distral(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("runs") / "distral", "distral")


def test_the_policy_acts_on_training_tasks_and_the_prior_on_any(distral):
    run = CliRunner().invoke
    arguments = ["evaluate", str(distral), "--tasks", "3", "--no-progress"]
    done = run(app, [*arguments, "--split", "train"])
    assert done.exit_code == 0, done.output
    refused = run(app, arguments)
    assert isinstance(refused.exception, ValueError)
    message = str(refused.exception)
    assert "can act on its 80 training tasks only, and task 0 of this evaluation is another one" in message
    assert "metarl evaluate RUN --set act=prior" in message
    for split in ("test", "validation", "train"):
        done = run(app, [*arguments, "--split", split, "--set", "act=prior"])
        assert done.exit_code == 0, done.output
        assert (distral / f"report_{split}_pearl_act-prior.json").exists()
    with pytest.raises(ConfigError, match="act must be one of policy, prior, not 'both'"):
        load_agent(distral, overrides=["act=both"])


def test_without_a_prior_nothing_acts_on_other_tasks(tmp_path):
    folder = tiny(tmp_path / "run", "svg0")
    with pytest.raises(ConfigError, match="act=prior needs a behaviour prior, and this agent has none"):
        load_agent(folder, overrides=["act=prior"])


class Recording:
    """Passes calls on and keeps the actions."""

    def __init__(self, agent):
        self.agent, self.actions = agent, []
        self.observe_task = agent.observe_task
        self.begin_trial, self.observe, self.end_episode = agent.begin_trial, agent.observe, agent.end_episode

    def act(self, observations):
        self.actions.append(self.agent.act(observations))
        return self.actions[-1]


def test_the_order_of_tasks_does_not_matter_to_the_policy(distral):
    """The agent recognises each task by its parameters, not by its row."""
    tasks = metarl_envs.family(ENV).tasks("train")
    agent = load_agent(distral)
    vectors = np.array([task.vector for task in tasks], np.float32)
    assert agent.policy.tasks.index(vectors[[7, 79, 0]]).tolist() == [7, 79, 0]
    # What the prior does has nothing to do with the task.
    prior = Recording(load_agent(distral, overrides=["act=prior"]))
    evaluate(prior, ENV, Protocol(split="test", adaptation_episodes=0, num_tasks=2))
    assert not prior.observe_task
    policy = Recording(agent)
    evaluate(policy, ENV, Protocol(split="train", adaptation_episodes=0, num_tasks=2))
    assert policy.observe_task
    assert not np.array_equal(policy.actions[0][0], policy.actions[0][1])


def test_a_descriptor_replaces_the_id(tmp_path):
    folder = tiny(tmp_path / "run", "distral", "descriptor=goal_x,goal_y", "shared_q=true")
    agent = load_agent(folder)
    inputs = agent.policy.tasks.inputs_KD.numpy()
    vectors = np.array([task.vector for task in metarl_envs.family(ENV).tasks("train")])
    # Scaled from the limits of the parameters: x in [-1, 1], y in [0, 1].
    np.testing.assert_allclose(inputs, np.stack([vectors[:, 0], 2 * vectors[:, 1] - 1], 1), atol=1e-6)
    with pytest.raises(ConfigError, match="unknown task parameter of descriptor 'goal'"):
        tiny(tmp_path / "other", "distral", "descriptor=goal")


def test_a_part_of_the_training_tasks(tmp_path):
    folder = tiny(tmp_path / "run", "svg0", "train_tasks=1,0", steps=2 * 20 + 180)
    record = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["env_steps"] == 2 * 20 + 180
    split = {"split": "train", "references": False}
    assert evaluate_run(folder, num_tasks=2, **split)
    with pytest.raises(ValueError, match="can act on its 2 training tasks only, and task 2 "):
        evaluate_run(folder, num_tasks=3, **split)
    vectors = [task.vector for task in metarl_envs.family(ENV).tasks("train")[:2]]
    assert load_agent(folder).policy.tasks.index(np.array(vectors, np.float32)).tolist() == [1, 0]
    with pytest.raises(ConfigError, match="train_tasks must be below 80, the number of tasks, not 80"):
        tiny(tmp_path / "other", "svg0", "train_tasks=3,80")
    with pytest.raises(ConfigError, match="train_tasks must be different tasks"):
        tiny(tmp_path / "twice", "svg0", "train_tasks=3,3")
    with pytest.raises(ConfigError, match="min_std, initial_std and max_std must increase"):
        tiny(tmp_path / "another", "svg0", "min_std=0.9")
