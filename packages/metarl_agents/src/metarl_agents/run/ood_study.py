"""MQL's out-of-distribution study as one resumable experiment.

Fakoor et al. 2020 (arXiv:1910.00125), appendix B: half-cheetahs are meta-trained on target velocities
below 2.5 m/s (medium) or 1.5 m/s (hard) and tested on [2.5, 3]. Adaptation uses 200 steps of the new task,
1200 steps, or one long episode of 800 steps. The paper plots, over meta-training, the returns of MQL and
TD3-context, and the proximal weight lambda and the propensity weight beta of adaptation (Figs. 6 to 8).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import metarl_envs
from metarl_agents.algorithms.mql import MQL, MQLConfig
from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.registry import find_agent
from metarl_agents.run.curves import COLOURS, read_metrics
from metarl_agents.run.directory import read_description
from metarl_agents.run.evaluate import evaluate_run
from metarl_agents.run.monitor import FILE, find_protocol
from metarl_agents.run.train import RunResult, resume, train
from metarl_envs.evaluation import compare
from metarl_envs.files import atomic_path, readable_json

FAMILIES = ("MetaHalfCheetah-VelOODMedium-v0", "MetaHalfCheetah-VelOODHard-v0")
BUDGETS = ("mql", "mql_1200", "mql_800")
UNADAPTED = "adaptation=none"


@dataclass(frozen=True)
class OODStudy:
    """Settings of the study.

    Attributes:
        folder: folder for the runs and the result.
        preset: preset of MQL's configuration.
        seed: seed of the runs.
        steps: environment steps of each run, instead of the preset's number.
        overrides: `key=value` texts that change MQL's configuration.
        evaluations: number of evaluations during meta-training, at equal intervals.
        seeds: seeds of the final evaluations' trials.
        families: ids of families with a split "ood".
        budgets: names of protocols, which set the data available for adaptation.
        threads: threads of PyTorch and of the simulator.
    """

    folder: Path
    preset: str = "fast"
    seed: int = 0
    steps: int | None = None
    overrides: Sequence[str] = ()
    evaluations: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)
    families: tuple[str, ...] = FAMILIES
    budgets: tuple[str, ...] = BUDGETS
    threads: int = 1

    def run(self, *, progress: bool = True, say: Callable[[str], None] = print) -> Path | None:
        """Trains the runs that are not finished, evaluates them, and writes `study.json` and `study.png`.

        Call it again to continue after an interruption.

        Returns:
            The written JSON, or None when training was interrupted.

        Raises:
            ConfigError: for a family without a split "ood", or an unknown protocol or key.
        """
        for family_id in self.families:
            if "ood" not in metarl_envs.family(family_id).splits:
                raise ConfigError(f"{family_id} has no split 'ood', which the study requires")
        for budget in self.budgets:
            find_protocol(budget)
        results: dict[str, Any] = {}
        for family_id in self.families:
            result = self._train(family_id, progress)
            if not result.finished:
                say(f"stopped: {result.run_dir}  (continue: run the same command again)")
                return None
            results[family_id] = {
                budget: self._evaluate(result.run_dir, budget, say) for budget in self.budgets
            }
        path = self.folder / "study.json"
        with atomic_path(path) as temporary:
            temporary.write_text(readable_json({"seed": self.seed, "families": results}) + "\n")
        self._plot()
        return path

    def _train(self, family_id: str, progress: bool) -> RunResult:
        run_dir = self.folder / family_id
        if (run_dir / "config.json").exists():
            return resume(run_dir, progress=progress)
        return train(
            "mql",
            family_id,
            preset=self.preset,
            seed=self.seed,
            out=run_dir,
            overrides=self._overrides(family_id),
            progress=progress,
            threads=self.threads,
        )

    def _overrides(self, family_id: str) -> list[str]:
        """The run's overrides, including those for evaluations during training."""
        values = parse_overrides(self.overrides)
        if self.steps is not None:
            values["total_env_steps"] = str(self.steps)
        config = find_agent("mql").config(family_id, self.preset, values)
        assert isinstance(config, MQLConfig)
        family = metarl_envs.family(family_id)
        _, per_visit = MQL.schedule(config).steps_per_visit(family.horizon)
        initial = config.initial_steps * len(family.tasks("train"))
        steps = max(config.total_env_steps - initial, 1)
        iterations = -(-steps // (per_visit * config.tasks_per_iteration))
        values |= {
            "evaluate_every": str(max(1, iterations // self.evaluations)),
            "evaluation_protocols": ",".join(self.budgets),
            "evaluation_split": "ood",
        }
        return [f"{key}={value}" for key, value in values.items()]

    def _evaluate(self, run_dir: Path, budget: str, say: Callable[[str], None]) -> dict[str, Any]:
        """Compares MQL with TD3-context, which has the same networks without adaptation."""
        adapted, plain = (
            evaluate_run(
                run_dir,
                split="ood",
                protocol=budget,
                seeds=self.seeds,
                references=False,
                overrides=overrides,
                threads=self.threads,
            )
            for overrides in ((), (UNADAPTED,))
        )
        family_id = read_description(run_dir)[0]["env_id"]
        result = compare(adapted, plain, names=(f"MQL, {family_id}, {budget}", "TD3-context"))
        say(f"{result}\n")
        notes = json.loads((run_dir / f"adaptation_ood_{budget}.json").read_text())["records"]
        return {
            "mql_iqm": result.scores[0],
            "td3_context_iqm": result.scores[1],
            "difference": list(result.difference),
            "lambda": sum(note["proximal"] for note in notes) / len(notes),
            "beta": sum(note["weight"] for note in notes) / len(notes),
        }

    def _plot(self) -> None:
        """Return, lambda and beta over meta-training: a row per family, a line per budget."""
        columns = {
            "evaluate/return": "return on the ood tasks",
            "evaluate/proximal": "lambda",
            "evaluate/weight": "beta",
        }
        figure = Figure(figsize=(11.0, 3.2 * len(self.families)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(self.families), len(columns), squeeze=False)
        for row, family_id in zip(axes, self.families, strict=True):
            records = read_metrics(self.folder / family_id, FILE)
            for panel, (metric, label) in zip(row, columns.items(), strict=True):
                for colour, budget in zip(COLOURS, self.budgets, strict=False):
                    chosen = [r for r in records if r["protocol"] == budget]
                    steps = [r["env_steps"] for r in chosen]
                    panel.plot(steps, [r[metric] for r in chosen], color=colour, label=budget)
                panel.set_xlabel("environment steps of meta-training")
                panel.set_ylabel(label)
                panel.spines[["top", "right"]].set_visible(False)
            row[0].set_title(family_id)
        axes[0][0].legend(frameon=False)
        with atomic_path(self.folder / "study.png") as temporary:
            figure.savefig(temporary, format="png", dpi=130)
