"""Training runs end to end on the point mass: files, resuming, killing, evaluating."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tianshou.trainer import OffPolicyTrainer
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner

from metarl_agents import evaluate_run, load_agent, resume, train
from metarl_agents.cli import app
from metarl_agents.common.config import ConfigError
from metarl_agents.common.threads import torch_threads
from metarl_agents.registry import AGENTS, find_agent
from metarl_agents.run.assembly import assemble
from metarl_agents.run.checkpoint import CheckpointError, newest_checkpoint, read_checkpoint
from metarl_agents.run.directory import RunError, recorded_products
from metarl_agents.run.logger import JsonLines, TrainingLogger
from metarl_agents.run.metrics import GLOSSARY, TIMING_GLOSSARY

pytestmark = pytest.mark.long
ENV = "MetaPoint-Goal-v0"
#: Agents that need a family with a reward model.
ENVS = {"slbo": "MetaHalfCheetah-VelShort-v0"}
TINY = [
    "initial_steps=20", "tasks_per_iteration=3", "updates_per_iteration=4", "meta_batch=3",
    "batch_size=8", "context_batch=8", "hidden=16", "encoder_hidden=16", "num_simulations=8",
    "capacity_per_task=100", "prior_steps=20", "extra_posterior_steps=40", "checkpoint_every=3",
]  # fmt: skip
TINY_ORACLE = [
    text
    for text in TINY
    if text.split("=")[0] not in ("context_batch", "encoder_hidden", "prior_steps", "extra_posterior_steps")
]
TINY_CRL = [*TINY, "adapter_hidden=16", "adapter_batch=8"]
TINY_POOLED = [*(text for text in TINY_ORACLE if not text.startswith("meta_batch")), "steps_per_task=60"]
TINY_TD3 = [*TINY_POOLED, "small_buffer=0"]
TINY_CONTEXT = [*TINY_TD3, "history_length=6", "context_size=4"]
TINY_MQL = [*TINY_CONTEXT, "new_updates=2", "replay_updates=3", "replay_batch=16"]
TINY_RL2 = [
    "tasks_per_iteration=3", "episodes_per_task=2", "episodes_per_trial=3", "recurrent_size=8",
    "checkpoint_every=3",
]  # fmt: skip
# Four or five updates in each iteration; the networks are copied every fourth.
TINY_MULTI_TASK = [
    "tasks_per_iteration=3", "batch_size=8", "hidden=16,8", "critic_hidden=16,8", "num_simulations=8",
    "capacity_per_task=100", "checkpoint_every=3", "chunk_length=5", "learner_use=1", "action_samples=2",
    "target_period=4", "initial_steps=20", "steps_per_task=60",
]  # fmt: skip
# Eighteen episodes in each iteration, in all of these.
TINY_TRIALS = ["tasks_per_iteration=3", "hidden=16", "checkpoint_every=3"]
TINY_MAML = [*TINY_TRIALS, "episodes_per_task=3", "inner_steps=1", "curvature_fraction=0.5"]
TINY_PROMP = [*TINY_TRIALS, "episodes_per_task=3", "outer_steps=2"]
TINY_FAST_UPDATES = [*TINY_TRIALS, "episodes_per_task=2", "outer_steps=3"]
TINY_ADAPT_SV = [*TINY_FAST_UPDATES, "inner_steps=2", "embedding_size=3"]
TINY_TESP = [
    *TINY_FAST_UPDATES, "inner_steps=1", "embedding_size=3", "encoder_hidden=4", "best_episodes=3",
]  # fmt: skip
# A task takes three iterations, and is never skipped because there are too few ratings.
TINY_SLBO = [
    "hidden=8", "value_hidden=8", "dynamics_hidden=16", "episodes_per_task=1", "inner_iterations=3",
    "model_steps=3", "policy_steps=2", "virtual_episodes=2", "model_batch=8", "measured_episodes=1",
    "selection=estimated", "checkpoint_every=3",
]  # fmt: skip
OVERRIDES = {
    "pearl": TINY,
    "crl": TINY_CRL,
    "sac": TINY_POOLED,
    "td3": TINY_TD3,
    "td3_context": TINY_CONTEXT,
    "mql": TINY_MQL,
    "svg0": TINY_MULTI_TASK,
    "distral": [*TINY_MULTI_TASK, "shared_q=true"],
    "mpo": TINY_MULTI_TASK,
    "mpo_distral": TINY_MULTI_TASK,
    "iwpl": [*TINY_MULTI_TASK, "acting_samples=3"],
    "pearl_star": [*TINY_MULTI_TASK, "memory_width=6", "latent_size=2"],
    "rl2_off_policy": [
        *(text for text in TINY_MULTI_TASK if not text.startswith(("batch_size", "chunk_length"))),
        "batch_size=2",
        "chunk_length=30",
        "memory_hidden=8",
        "memory_width=6",
    ],
    "oracle": [*TINY_ORACLE, "steps_per_task=60"],
    "maml": TINY_MAML,
    "promp": TINY_PROMP,
    "rl2": TINY_RL2,
    "meta_sgd": [*TINY_FAST_UPDATES, "inner_steps=2"],
    "adapt_sv": TINY_ADAPT_SV,
    "tesp": TINY_TESP,
    "joint_oracle": [*TINY_TRIALS, "episodes_per_task=6"],
    "slbo": TINY_SLBO,
}
# 80 tasks x 20 initial steps, then 3 x 60 per iteration: six iterations. Agents that learn from trials
# collect nothing before training and 360 steps per iteration: eight iterations.
STEPS = 80 * 20 + 6 * 180


def tiny(out, agent="pearl", env=None, overrides=(), **arguments):
    env = env or ENVS.get(agent, ENV)
    arguments = {"seed": 7, "steps": STEPS, "progress": False} | arguments
    return train(agent, env, out=out, overrides=[*OVERRIDES[agent], *overrides], **arguments)


def outcome(run_dir):
    """Every number a run ends with, bit for bit."""
    checkpoint = read_checkpoint(newest_checkpoint(Path(run_dir) / "checkpoints"))
    numbers = {k: v.numpy() for k, v in checkpoint.weights.items()} | checkpoint.arrays
    values = {k: v for k, v in checkpoint.values.items() if not k.startswith("timing_")}
    return numbers, values, (Path(run_dir) / "metrics.jsonl").read_text()


def assert_same_outcome(a, b):
    (numbers_a, values_a, metrics_a), (numbers_b, values_b, metrics_b) = outcome(a), outcome(b)
    assert metrics_a == metrics_b
    assert values_a == values_b
    assert numbers_a.keys() == numbers_b.keys()
    for name, array in numbers_a.items():
        assert np.array_equal(array, numbers_b[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = tiny(folder)
    assert result.finished
    assert (result.iterations, result.env_steps, result.gradient_steps) == (6, STEPS, 24)
    return folder


def test_a_run_directory_is_self_contained(finished):
    assert {p.name for p in finished.iterdir()} >= {
        "config.json", "versions.json", "metrics.jsonl", "timing.jsonl", "log.txt", "tensorboard",
        "checkpoints",
    }  # fmt: skip
    config = json.loads((finished / "config.json").read_text())
    assert config["agent"] == "pearl"
    assert config["overrides"]["total_env_steps"] == str(STEPS)
    assert config["config"]["hidden"] == [16]
    versions = json.loads((finished / "versions.json").read_text())
    assert set(versions["tables"]) == {"train", "validation", "test"}
    assert versions["packages"]["torch"] == torch.__version__.partition("+")[0] or versions
    assert any(p.name.startswith("events") for p in (finished / "tensorboard").iterdir())


def test_every_logged_metric_is_in_the_glossary_and_deterministic(finished, tmp_path):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["iteration"] for r in records] == list(range(1, 7))
    assert all(set(r) <= set(GLOSSARY) for r in records)
    # All agents together leave no entry of the glossary unused.
    used = set(records[-1])
    for agent in set(AGENTS) - {"pearl"}:
        tiny(tmp_path / agent, agent, steps=80 * 20 + 180)
        # The last iteration of slbo has no update.
        for line in (tmp_path / agent / "metrics.jsonl").read_text().splitlines()[-2:]:
            used |= set(json.loads(line))
    assert used == set(GLOSSARY)
    timing = [json.loads(line) for line in (finished / "timing.jsonl").read_text().splitlines()]
    assert all(set(r) == set(TIMING_GLOSSARY) for r in timing)
    columns = TrainingLogger.restore_logged_data(str(finished))
    assert columns["gradient_steps"] == list(range(4, 28, 4))
    tiny(tmp_path / "again")
    assert_same_outcome(finished, tmp_path / "again")
    tiny(tmp_path / "other", seed=8)
    assert (tmp_path / "other/metrics.jsonl").read_text() != (finished / "metrics.jsonl").read_text()


def test_an_unknown_metric_is_refused(tmp_path):
    with pytest.raises(KeyError, match="missing from metarl_agents"):
        JsonLines(tmp_path / "x.jsonl", 0, GLOSSARY).write({"nonsense": 1.0})


def test_tianshous_trainer_drives_the_run(finished, tmp_path):
    config = find_agent("pearl").config(ENV, "fast")
    config = config.replace(dict(text.split("=") for text in TINY))
    parts = assemble("pearl", ENV, config, seed=7, device=torch.device("cpu"), threads=1)
    initial = parts.collector.collect_initial()
    records = []
    logger = TrainingLogger(
        tmp_path,
        glossary=GLOSSARY,
        position=(0, initial.n_collected_steps, 0),
        lines=(0, 0),
        on_iteration=records.append,
        on_update=lambda: None,
    )
    trainer = parts.trainer(logger, None, recorded_products(finished))
    trainer.params.max_epochs = 3
    assert isinstance(trainer, OffPolicyTrainer)
    info = trainer.run(reset_collectors=False)
    assert info.update_step == 3
    assert info.train_step == STEPS - 3 * 180
    assert logger.gradient_steps == 12
    # The trainer alone does what `train` does.
    expected = (finished / "metrics.jsonl").read_text().splitlines()[:3]
    assert [json.dumps(r) for r in records] == expected


def interrupt_after(iterations):
    """Signals this process when a run's metrics reach a line."""
    original = SummaryWriter.add_scalar

    def add_scalar(self, name, value, *arguments, **named):
        if name == "iteration" and value == iterations:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, name, value, *arguments, **named)

    return add_scalar


@pytest.mark.parametrize("agent", AGENTS)
def test_an_interrupted_run_resumes_to_the_same_end(agent, finished, tmp_path, monkeypatch):
    whole = finished
    if agent != "pearl":
        whole = tmp_path / "whole"
        tiny(whole, agent)
    # A shell starts its background jobs with this signal ignored.
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "add_scalar", interrupt_after(4))
        result = tiny(tmp_path / "cut", agent)
    assert not result.finished
    assert result.iterations == 4  # not a multiple of checkpoint_every: saved because of the signal
    assert signal.getsignal(signal.SIGINT) is before
    result = resume(tmp_path / "cut", progress=False)
    assert result.finished
    assert_same_outcome(tmp_path / "cut", whole)
    # Resuming a finished run changes nothing.
    assert resume(tmp_path / "cut", progress=False).iterations == result.iterations
    assert_same_outcome(tmp_path / "cut", whole)


#: Of every kind: inference, context, recurrent, gradients, priors, learned dynamics.
KILLED = ("pearl", "mql", "rl2", "promp", "tesp", "distral", "pearl_star", "slbo")


@pytest.mark.process
@pytest.mark.parametrize(
    ("agent", "kills"),
    [("pearl", 2), ("slbo", 2), *(pytest.param(agent, 5, marks=pytest.mark.slow) for agent in KILLED)],
)
def test_a_run_killed_at_a_random_moment_resumes_to_the_same_end(agent, kills, finished, tmp_path):
    if agent != "pearl":
        finished = tmp_path / "whole"
    started = time.monotonic()
    tiny(tmp_path / "timed", agent)
    duration = time.monotonic() - started
    if agent != "pearl":
        (tmp_path / "timed").rename(finished)
    moment, killed = random.Random(agent), 0
    for number in range(kills):
        cut = tmp_path / f"cut-{number}"
        code = (
            "from metarl_agents import train, resume; import sys\n"
            f"resume({str(cut)!r}, progress=False) if len(sys.argv) > 1 else train({agent!r},"
            f" {ENVS.get(agent, ENV)!r}, out={str(cut)!r}, overrides={OVERRIDES[agent]!r}, seed=7,"
            f" steps={STEPS}, progress=False)"
        )
        # Every other one is killed again when it is continued.
        for arguments in ([], ["again"])[: 1 + number % 2]:
            process = subprocess.Popen([sys.executable, "-c", code, *arguments])
            while process.poll() is None and str(process.pid) not in held_by(cut):
                time.sleep(0.001)
            time.sleep(moment.uniform(0.0, 1.2 * duration))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        assert resume(cut, progress=False).finished
        assert_same_outcome(cut, finished)
    print(f"{agent}: {killed} killed before the end")
    assert killed


def held_by(run_dir):
    """What the lock of a run says."""
    path = run_dir / ".lock"
    return path.read_text() if path.exists() else ""


def test_a_run_killed_while_it_writes_a_checkpoint_keeps_the_one_before(finished, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    import metarl_agents.run.checkpoint as module

    original, calls = os.rename, []

    def rename(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "rename", rename)
        with pytest.raises(Killed):
            tiny(tmp_path / "cut")
    newest = newest_checkpoint(tmp_path / "cut/checkpoints")
    assert newest.name == "00000003"
    assert len((tmp_path / "cut/metrics.jsonl").read_text().splitlines()) == 6
    resume(tmp_path / "cut", progress=False)
    assert_same_outcome(tmp_path / "cut", finished)


def test_damage_is_noticed_and_nothing_is_unpickled(finished, tmp_path):
    tiny(tmp_path / "run", steps=80 * 20 + 180)
    path = newest_checkpoint(tmp_path / "run/checkpoints")
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json", ".sha256"}
    weights = path / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_agent(tmp_path / "run")
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(tmp_path / "run", progress=False)
    (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        load_agent(tmp_path / "run")


def test_refusals(finished, tmp_path):
    with pytest.raises(RunError, match="is not empty"):
        tiny(finished)
    with pytest.raises(RunError, match="is not the directory of a run"):
        resume(tmp_path)
    with pytest.raises(RunError, match="is not the directory of a run"):
        load_agent(tmp_path / "missing")
    with pytest.raises(ConfigError, match="the device 'abacus' cannot be used"):
        tiny(tmp_path / "a", device="abacus")
    with pytest.raises(ConfigError, match="must be 'reward' or an info key of MetaPoint-Goal-v0"):
        tiny(tmp_path / "b", overrides=["training_reward=joy"])
    with pytest.raises(ConfigError, match="unknown protocol 'x'"):
        evaluate_run(finished, protocol="x")


def test_evaluation_writes_a_report_and_repeats_itself(finished):
    report = evaluate_run(finished)
    assert report.returns.shape == (1, 20, 3)
    assert set(report.references) == {"zero", "random", "oracle"}
    assert (finished / "report_test_pearl.json").exists()
    assert (finished / "report_test_pearl.png").stat().st_size > 1000
    again = evaluate_run(finished, references=False, seeds=[0, 1])
    assert again.returns.shape == (2, 20, 3)
    assert np.array_equal(again.returns[0], report.returns[0])
    few = evaluate_run(finished, references=False, num_tasks=4)
    assert few.returns.shape == (1, 4, 3)
    assert few.tasks == report.tasks[:4]
    assert evaluate_run(finished, split="train", references=False).returns.shape == (1, 80, 3)


def test_a_run_of_initial_steps_only_says_that_nothing_was_learned(tmp_path, capsys):
    result = tiny(tmp_path / "short", steps=100, progress=True)
    assert (result.finished, result.learned, result.iterations, result.gradient_steps) == (True, False, 0, 0)
    told = capsys.readouterr().err
    for text in (told, (tmp_path / "short/log.txt").read_text()):
        assert "the training tasks already take 1,600, so no iteration was run" in text
        assert "use more than 1,600 steps, or fewer initial ones" in text
        assert "no return yet" in text
        assert "nan" not in text
    again = CliRunner().invoke(app, ["resume", str(tmp_path / "short")])
    assert "untrained:" in again.output
    assert "use --steps with more than 1,600" in again.output
    assert "finished" not in again.output
    assert tiny(tmp_path / "longer", steps=1601).learned


def test_sparse_point_trains_on_the_dense_reward(tmp_path):
    result = tiny(
        tmp_path / "sparse", env="MetaPoint-SparseGoal-v0",
        overrides=["training_reward=dense_reward", "posterior_steps=40"],
    )  # fmt: skip
    arrays = read_checkpoint(newest_checkpoint(result.run_dir / "checkpoints")).arrays
    assert (arrays["buffer.info.dense_reward"] < 0).all()
    assert (arrays["buffer.rew"] >= 0).all()
    weights = newest_checkpoint(result.run_dir / "checkpoints") / "weights.safetensors"
    assert "policy.encoder.network.0.weight" in safetensors.torch.load_file(weights)


def test_no_global_generator_is_touched(tmp_path):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    random_before = random.getstate()
    with torch_threads(2):  # a run has one
        tiny(tmp_path / "run", steps=80 * 20 + 180)
        assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert random.getstate() == random_before
