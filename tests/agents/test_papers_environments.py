"""Every agent on every environment of its paper, through the command line. Slow: minutes in all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_run import OVERRIDES

from metarl_agents.common.config import ReplayConfig
from metarl_agents.iwpa.config import VARIANTS
from metarl_agents.registry import AGENTS, find_agent
from metarl_envs.evaluation import Report

# A table of the preset `paper` names an environment of the paper; "default" does not.
CASES = [
    (agent, env_id)
    for agent in AGENTS
    for env_id in find_agent(agent).preset_tables()["paper"]
    if env_id != "default" and not env_id.startswith("MetaPoint")
]
# Of paper-sized runs, only the sizes are cut down; the rest is the preset's.
MULTI_TASK = ("svg0", "distral", "mpo", "mpo_distral", "iwpl")
PRIORS = ("distral", "mpo_distral", "iwpl")
REPLACED = ("initial_steps", "capacity_per_task", "num_simulations", "context_batch")
REPLAY = ("initial_steps=50", "capacity_per_task=2000", "num_simulations=20")
SMALL = {
    agent: [text for text in overrides if text.split("=")[0] not in REPLACED]
    for agent, overrides in OVERRIDES.items()
}

IWPA_FAMILIES = list(find_agent("iwpl").preset_tables()["paper"])[1:]
EPISODES = 4


def metarl(*arguments):
    return [str(Path(sys.executable).with_name("metarl")), *map(str, arguments)]


def call(*arguments):
    result = subprocess.run(
        metarl(*arguments), capture_output=True, text=True, timeout=600, env=dict(os.environ)
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "env_id"), CASES)
def test_an_agent_trains_resumes_evaluates_and_plots_on_its_papers_environment(agent, env_id, tmp_path):
    run_dir = tmp_path / "run"
    changes = SMALL[agent]
    if issubclass(find_agent(agent).load().config_class, ReplayConfig):
        changes = [*changes, *REPLAY]
    options = [part for text in changes for part in ("--set", text)]
    steps = 90_000
    command = metarl(
        "train", agent, env_id, "--preset", "paper", "--steps", steps, "--out", run_dir, *options
    )
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    while not (run_dir / "metrics.jsonl").exists() or not (run_dir / "metrics.jsonl").read_text():
        assert process.poll() is None, "the run ended before its first iteration"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopped" in said
    done = int(json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["env_steps"])
    protocol = "mql" if agent in ("td3_context", "mql") else "pearl"
    evaluate = ("evaluate", run_dir, "--tasks", 2, "--protocol", protocol)
    # Agents that receive the id of a training task act on these only; their priors act on any.
    evaluations = [(*evaluate, "--split", "train" if agent in MULTI_TASK else "test")]
    if agent in PRIORS:
        evaluations.append((*evaluate, "--split", "test", "--set", "act=prior"))
    for arguments in (
        # Let it end soon after it has been resumed.
        ("resume", run_dir, "--no-progress", "--steps", done + 1),
        *evaluations,
        ("plot", run_dir, "--out", tmp_path),
    ):
        call(*arguments)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["iteration"] for r in records] == list(range(1, len(records) + 1))
    assert records[-1]["env_steps"] > done
    assert (tmp_path / "learning.png").stat().st_size > 1000
    assert list(tmp_path.glob(f"adaptation_{env_id}_*.png"))
    assert len(list(run_dir.glob("report_*.json"))) == len(evaluations)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", IWPA_FAMILIES)
def test_every_variant_adapts_on_every_family_of_its_paper(env_id, tmp_path):
    run_dir = tmp_path / "run"
    options = [part for text in (*SMALL["distral"], *REPLAY) for part in ("--set", text)]
    call(
        "train", "distral", env_id, "--preset", "paper", "--steps", 1, "--out", run_dir, "--no-progress",
        *options,
    )  # fmt: skip
    small = ("batch_size=8", "action_samples=4", "policy_samples=2", "acting_samples=4", "prior_episodes=1")
    said = call(
        "adapt", run_dir, "--variant", ",".join(VARIANTS), "--preset", "paper", "--tasks", 2, "--seeds", 0,
        "--episodes", EPISODES, "--no-progress", "--set", "finetune_after=2",
        *(part for text in small for part in ("--set", text)),
    )  # fmt: skip
    assert (run_dir / "adaptation_test_iwpa.png").stat().st_size > 1000
    for variant in VARIANTS:
        assert f"{variant} " in said
        (path,) = run_dir.glob(f"report_test_iwpa_{variant}_acting*.json")
        report = Report.from_json(path)
        assert report.returns.shape == (1, 2, EPISODES)
        record = json.loads(path.with_name(path.name.replace("report", "adaptation")).read_text())
        learned = record["episodes"]
        assert len(learned) == (0 if variant == "prior" else EPISODES)
        assert np.isfinite([value for episode in learned for value in episode.values()]).all()
