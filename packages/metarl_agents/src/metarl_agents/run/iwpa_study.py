"""The adaptation study of IWPA as one resumable experiment.

Galashov et al. 2020 (arXiv:2009.04875), sections 5 and 6: a multi-task agent is pre-trained, its behaviour
prior and its critic adapt to the test tasks by several methods, and their returns along the episodes are
compared, with those of meta-learning agents. With few training tasks (Figure 4), features that do not fit new
tasks can be learned further.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metarl_envs
from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.iwpa.config import adaptation_config
from metarl_agents.priors.config import MultiTaskConfig
from metarl_agents.registry import find_agent
from metarl_agents.run.adapt import PROTOCOL, WINDOW, adapt_protocol, adapt_run
from metarl_agents.run.directory import core_seconds, this_command
from metarl_agents.run.evaluate import evaluate_run, load_agent
from metarl_agents.run.progress import EpisodeProgress
from metarl_agents.run.train import RunResult, resume, train
from metarl_agents.run.variants import compare_variants, variants_record
from metarl_envs import evaluation
from metarl_envs.files import atomic_path, readable_json

VARIANTS = ("iwpa", "iw", "distral", "shared_q", "scratch", "q_only", "iwpa_finetune", "prior")
FEW_TASKS_VARIANTS = ("iwpa", "iwpa_finetune", "prior")
#: Episodes of a validation task in which the prior may find its reward, and the seed of these trials.
COVERAGE_EPISODES, COVERAGE_SEED = 60, 100


def prior_coverage(
    run_dir: Path,
    env_id: str,
    *,
    split: str = "validation",
    episodes: int = COVERAGE_EPISODES,
    seed: int = COVERAGE_SEED,
) -> float:
    """Share of the tasks of a split that a run's behaviour prior solves in at least one of its episodes.

    An agent that adapts with the prior finds the reward of a sparse task by the prior's actions, so this
    share bounds what it can solve. The success of training says little about it.

    Args:
        run_dir: directory of a run of an agent with a behaviour prior.
        env_id: id of the family.
        split: the split.
        episodes: number of episodes.
        seed: seed of the trials.
    """
    protocol = evaluation.Protocol(
        split=split, adaptation_episodes=0, scored_episodes=episodes, deterministic=False, seeds=(seed,)
    )
    report = evaluation.evaluate(load_agent(run_dir, overrides=["act=prior"]), env_id, protocol)
    return float(report.success_once.any(axis=(0, 2)).mean())


@dataclass(frozen=True)
class IWPAStudy:
    """Settings of the study.

    Attributes:
        folder: folder for the runs and the result.
        env_id: id of the family.
        agent: agent of the pre-training.
        train_tasks: number of training tasks of the pre-training, from the first on; None for all.
        variants: variants of the adaptation, with settings of their own where wanted, e.g.
            "iwpa:initial_weights=random"; the first is what others are compared with.
        rivals: agents that learn to adapt, e.g. rl2_off_policy. They are trained with their preset and the
            same seeds, and evaluated in the same trials.
        preset: preset of pre-training, adaptation and rivals.
        seeds: seeds of the pre-training and of the rivals.
        steps: environment steps of the pre-training, instead of the preset's number.
        overrides: `key=value` texts that change the pre-training.
        adapt_overrides: `key=value` texts that change the adaptation.
        rival_overrides: `key=value` texts that change the training of the rivals.
        split: tasks to adapt to.
        episodes: number of episodes of a trial.
        trial_seeds: seeds of the trials of each pre-trained agent.
        num_tasks: number of tasks to adapt to, from the first on; None for all.
        threads: threads of PyTorch and of the simulator.
    """

    folder: Path
    env_id: str
    agent: str = "distral"
    train_tasks: int | None = None
    variants: tuple[str, ...] = VARIANTS
    rivals: tuple[str, ...] = ()
    preset: str = "fast"
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    overrides: Sequence[str] = ()
    adapt_overrides: Sequence[str] = ()
    rival_overrides: Sequence[str] = ()
    split: str = "test"
    episodes: int = PROTOCOL.num_episodes
    trial_seeds: tuple[int, ...] = (0,)
    num_tasks: int | None = None
    threads: int = 1

    def run(self, *, progress: bool = True, say: Callable[[str], None] = print) -> Path | None:
        """Pre-trains what is not finished, adapts it, and writes `study.json`, `study.txt` and `study.png`.

        Call it again to continue after an interruption.

        Returns:
            The written JSON, or None when a training was interrupted.

        Raises:
            ConfigError: for an unknown variant, agent or key, or a bad value.
        """
        self._check()
        names = (*self.variants, *self.rivals)
        found: dict[str, list[evaluation.Report]] = {name: [] for name in names}
        seeds: dict[str, dict[str, float | None]] = {}
        for seed in self.seeds:
            run_dir = self._trained(self.agent, seed, progress, say)
            if run_dir is None:
                return None
            coverage = prior_coverage(run_dir, self.env_id)
            seeds[str(seed)] = {
                "prior_coverage_of_validation_tasks": coverage,
                "pretraining_core_seconds": core_seconds(run_dir),
            }
            say(f"seed {seed}: the prior solves {coverage:.2f} of the validation tasks")
            for variant in self.variants:
                found[variant].append(self._adapt(run_dir, variant, progress))
            for rival in self.rivals:
                rival_dir = self._trained(rival, seed, progress, say)
                if rival_dir is None:
                    return None
                seeds[str(seed)][f"{rival}_core_seconds"] = core_seconds(rival_dir)
                found[rival].append(self._evaluate(rival_dir, rival, progress))
        results: dict[str, evaluation.Result] = {name: evaluation.pooled(r) for name, r in found.items()}
        table = compare_variants(results, self.episodes, WINDOW)
        say(table)
        path = self.folder / "study.json"
        for target, text in (
            (path, readable_json(self._record(results, seeds))),
            (path.with_suffix(".txt"), table),
        ):
            with atomic_path(target) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        evaluation.plot_adaptation(list(results.values()), path.with_suffix(".png"), window=WINDOW)
        return path

    def _check(self) -> None:
        """Refuses bad settings before anything is trained."""
        family = metarl_envs.family(self.env_id)
        available = family.split("train").count
        if self.train_tasks is not None and not 1 <= self.train_tasks <= available:
            raise ConfigError(f"train_tasks must be from 1 to {available}, not {self.train_tasks}")
        for entry in self.variants:
            variant, overrides = self._settings(entry)
            adaptation_config(self.env_id, self.preset, parse_overrides(overrides) | {"variant": variant})
        for rival in self.rivals:
            config_class = find_agent(rival).load().config_class
            if issubclass(config_class, MultiTaskConfig):
                raise ConfigError(
                    f"{rival} cannot act on new tasks without being adapted; a rival is an agent that learns "
                    "to adapt, e.g. pearl"
                )

    def _trained(self, agent: str, seed: int, progress: bool, say: Callable[[str], None]) -> Path | None:
        """The directory of a finished training; None when it was interrupted."""
        result = self._train(agent, seed, progress)
        if not result.finished:
            say(f"stopped: {result.run_dir}  (continue: run the same command again)")
            return None
        return result.run_dir

    def _train(self, agent: str, seed: int, progress: bool) -> RunResult:
        pretraining = agent == self.agent
        run_dir = self.folder / (f"seed-{seed}" if pretraining else f"{agent}-seed-{seed}")
        if (run_dir / "config.json").exists():
            return resume(run_dir, progress=progress)
        overrides = list(self.overrides if pretraining else self.rival_overrides)
        if pretraining and self.train_tasks is not None:
            overrides.append("train_tasks=" + ",".join(map(str, range(self.train_tasks))))
        return train(
            agent,
            self.env_id,
            preset=self.preset,
            seed=seed,
            steps=self.steps if pretraining else None,
            out=run_dir,
            overrides=overrides,
            progress=progress,
            threads=self.threads,
        )

    def _settings(self, entry: str) -> tuple[str, list[str]]:
        """Name of a variant and the settings of its adaptation."""
        variant, *own = entry.split(":")
        return variant, [*self.adapt_overrides, *own]

    def _adapt(self, run_dir: Path, entry: str, progress: bool) -> evaluation.Report:
        variant, overrides = self._settings(entry)
        with EpisodeProgress(f"{run_dir} {entry}", shown=progress) as shown:
            report = adapt_run(
                run_dir,
                variant=variant,
                preset=self.preset,
                split=self.split,
                episodes=self.episodes,
                seeds=self.trial_seeds,
                num_tasks=self.num_tasks,
                overrides=overrides,
                progress=shown.episode,
                threads=self.threads,
            )
        return dataclasses.replace(report, agent=entry)

    def _evaluate(self, run_dir: Path, rival: str, progress: bool) -> evaluation.Report:
        protocol = adapt_protocol(self.split, self.episodes, self.trial_seeds, self.num_tasks)
        with EpisodeProgress(f"{run_dir} {rival}", shown=progress) as shown:
            return evaluate_run(
                run_dir,
                split=self.split,
                protocol=protocol,
                progress=shown.episode,
                threads=self.threads,
            )

    def _record(
        self, results: dict[str, evaluation.Result], seeds: dict[str, dict[str, float | None]]
    ) -> dict[str, Any]:
        """Settings and numbers of all variants and rivals."""
        return {
            "command": this_command(),
            "family": self.env_id,
            "pretraining": self.agent,
            "preset": self.preset,
            "train_tasks": self.train_tasks,
            "split": self.split,
            "tasks": len(next(iter(results.values())).tasks),
            "trial_seeds": list(self.trial_seeds),
            "episodes": self.episodes,
            "seeds": seeds,
            **variants_record(results, self.episodes, WINDOW),
        }
