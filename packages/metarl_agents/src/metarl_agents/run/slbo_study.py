"""Studies of multi-task SLBO as resumable experiments.

Landolfi et al. 2019 (arXiv:1907.04964), section 5: returns on new tasks against the number of training tasks,
transfer to tasks of another distribution or with other dynamics (Figure 2), and active against uniform
selection of training tasks (Figure 3). A run is trained to a number of tasks, evaluated, and trained further.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import metarl_envs
from metarl_agents.common.config import ConfigError, parse_overrides
from metarl_agents.registry import find_agent
from metarl_agents.run.curves import COLOURS, read_metrics
from metarl_agents.run.directory import RunError, core_seconds, read_json, this_command, write_json
from metarl_agents.run.evaluate import evaluate_run
from metarl_agents.run.monitor import find_protocol
from metarl_agents.run.progress import EpisodeProgress
from metarl_agents.run.train import RunResult, resume, train
from metarl_agents.slbo.config import SLBOConfig
from metarl_envs import evaluation
from metarl_envs.files import atomic_path, readable_json

#: Training tasks whose mean gap between virtual and real return is reported: the last ones.
LAST_TASKS = 10
#: Settings of an evaluation that say what the learned dynamics are worth.
CONTROLS = ("dynamics=initial", "dynamics=true")


@dataclass(frozen=True)
class SLBOStudy:
    """Settings of a study.

    Attributes:
        folder: folder for the runs and the result.
        env_id: id of the family.
        numbers: numbers of training tasks, increasing, at which a run is evaluated.
        selections: ways to select training tasks, each of which has runs of its own.
        controls: `key=value` texts; for each, the agent is also evaluated with this change at the largest
            number of tasks.
        preset: preset of the runs.
        seeds: seeds of the runs.
        split: tasks to evaluate on.
        protocol: name of the protocol.
        num_tasks: number of tasks to evaluate on, from the first on; None for all.
        overrides: `key=value` texts that change the runs.
        threads: threads of PyTorch and of the simulator.
    """

    folder: Path
    env_id: str
    numbers: tuple[int, ...] = (5, 10, 20, 30)
    selections: tuple[str, ...] = ("none",)
    controls: tuple[str, ...] = ()
    preset: str = "fast"
    seeds: tuple[int, ...] = (0, 1, 2)
    split: str = "test"
    protocol: str = "slbo_warm_up"
    num_tasks: int | None = None
    overrides: Sequence[str] = ()
    threads: int = 1

    def run(self, *, progress: bool = True, say: Callable[[str], None] = print) -> Path | None:
        """Trains and evaluates what is not finished, and writes `study.json`, `study.txt` and `study.png`.

        Call it again to continue after an interruption.

        Returns:
            The written JSON, or None when a training was interrupted.

        Raises:
            ConfigError: for an unknown selection, protocol or key, or a bad value.
            ValueError: for a family without this split.
        """
        per_task = self._check()
        found: dict[str, list[evaluation.Report]] = {}
        seeds: dict[str, dict[str, Any]] = {}
        for seed, selection in itertools.product(self.seeds, self.selections):
            run_dir = self.folder / f"{selection}-seed-{seed}"
            for number in self.numbers:
                reports: list[tuple[str, tuple[str, ...]]] = [(self._label(selection, number), ())]
                if number == self.numbers[-1]:
                    reports += [(f"{self._label(selection, number)}, {c}", (c,)) for c in self.controls]
                for label, changes in reports:
                    path = self.folder / "reports" / f"{run_dir.name}-tasks-{number}{_suffix(changes)}.json"
                    if not path.exists():
                        if not self._trained_to(number, run_dir, seed, selection, per_task, progress):
                            say(f"stopped: {run_dir}  (continue: run the same command again)")
                            return None
                        self._evaluate(run_dir, path, changes, progress)
                    report = evaluation.Report.from_json(path)
                    found.setdefault(label, []).append(dataclasses.replace(report, agent=label))
            seeds.setdefault(str(seed), {})[selection] = self._costs(run_dir)
        results: dict[str, evaluation.Result] = {name: evaluation.pooled(r) for name, r in found.items()}
        record = self._record(results, seeds)
        text = _table(record)
        say(text)
        path = self.folder / "study.json"
        for target, content in ((path, readable_json(record)), (path.with_suffix(".txt"), text)):
            with atomic_path(target) as temporary:
                temporary.write_text(content + "\n", encoding="utf-8")
        if len(self.numbers) > 1:
            self._plot(record, path.with_suffix(".png"))
        else:
            evaluation.plot_adaptation(list(results.values()), path.with_suffix(".png"))
        return path

    def _check(self) -> int:
        """Refuses bad settings before anything is trained; returns the real steps of a task."""
        family = metarl_envs.family(self.env_id)
        family.split(self.split)
        find_protocol(self.protocol)
        if list(self.numbers) != sorted(set(self.numbers)) or self.numbers[0] < 1:
            raise ConfigError(f"numbers of tasks must increase from at least 1, not {self.numbers}")
        values = parse_overrides(self.overrides)
        for selection in self.selections:
            config = find_agent("slbo").config(self.env_id, self.preset, values | {"selection": selection})
            for control in self.controls:
                config.replace(parse_overrides([control]))
        assert isinstance(config, SLBOConfig)
        return config.episodes_per_task * family.horizon

    def _label(self, selection: str, number: int) -> str:
        tasks = f"{number} tasks"
        return tasks if len(self.selections) == 1 else f"selection {selection}, {tasks}"

    def _trained_to(
        self, number: int, run_dir: Path, seed: int, selection: str, per_task: int, progress: bool
    ) -> bool:
        """Trains a run until it has this number of tasks; false when it was interrupted."""
        steps = number * per_task
        while True:
            result = self._train(run_dir, seed, selection, steps, progress)
            if not result.finished:
                return False
            trained = _last(run_dir, "collect/trained_tasks")
            if trained > number:
                raise RunError(f"{run_dir} has more than {number} tasks: remove it, or name its report")
            if trained == number:
                return True
            # Steps that only rate tasks are part of the number of steps.
            steps = result.env_steps + round(number - trained) * per_task

    def _train(self, run_dir: Path, seed: int, selection: str, steps: int, progress: bool) -> RunResult:
        if (run_dir / "config.json").exists():
            return resume(run_dir, progress=progress, steps=steps)
        return train(
            "slbo",
            self.env_id,
            preset=self.preset,
            seed=seed,
            steps=steps,
            out=run_dir,
            overrides=[*self.overrides, f"selection={selection}"],
            progress=progress,
            threads=self.threads,
        )

    def _evaluate(self, run_dir: Path, path: Path, changes: Sequence[str], progress: bool) -> None:
        with EpisodeProgress(f"{run_dir} {' '.join(changes)}".strip(), shown=progress) as shown:
            report = evaluate_run(
                run_dir,
                split=self.split,
                protocol=self.protocol,
                num_tasks=self.num_tasks,
                overrides=changes,
                progress=shown.episode,
                say=shown.message,
                threads=self.threads,
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        report.to_json(path)

    def _costs(self, run_dir: Path) -> dict[str, Any]:
        """Steps and time of a run, and how far its last virtual returns were from real ones.

        They are kept beside the reports, so that a study can be continued without the runs that are finished.
        """
        path = self.folder / "reports" / f"{run_dir.name}-costs-{self.numbers[-1]}.json"
        if path.exists():
            return read_json(path)
        records = [r for r in read_metrics(run_dir) if "collect/task" in r]
        gaps = [
            r["collect/virtual_return"] - r["collect/return_after"]
            for r in records
            if "collect/return_after" in r and "collect/virtual_return" in r
        ]
        last = records[-1]
        names = ("trained_tasks", "skipped_tasks", "rating_steps", "measured_steps")
        costs = {
            "env_steps": last["env_steps"],
            **{name: last[f"collect/{name}"] for name in names},
            "virtual_minus_real_of_the_last_tasks": float(np.mean(gaps[-LAST_TASKS:])) if gaps else None,
            "core_seconds": core_seconds(run_dir),
        }
        write_json(path, costs)
        return costs

    def _record(self, results: Mapping[str, evaluation.Result], seeds: Mapping[str, Any]) -> dict[str, Any]:
        """Settings and numbers; differences are paired by training seed and task."""
        first = next(iter(results.values()))
        protocol = first.protocol
        scored = (protocol.num_episodes - protocol.scored_episodes + 1, protocol.num_episodes)
        numbers: dict[str, Any] = {}
        for name, result in results.items():
            curve = evaluation.adaptation_curve(result, rng=np.random.default_rng(0))
            mean, low, high = _mean_over_tasks(result)
            numbers[name] = {
                "score": [_short(mean), _short(low), _short(high)],
                "scores": [[_short(value) for value in row] for row in result.scores],
                "curve": [_short(value) for value in curve.estimate],
                "references": {n: _short(float(v.mean())) for n, v in result.references.items()},
            }
        return {
            "command": this_command(),
            "family": self.env_id,
            "preset": self.preset,
            "split": self.split,
            "protocol": protocol.name,
            "adapting": [
                protocol.adapting(n) for n in range(0, protocol.num_episodes, protocol.episodes_per_update)
            ],
            "tasks": [task["parameters"] for task in first.tasks],
            "numbers": list(self.numbers),
            "selections": list(self.selections),
            "controls": list(self.controls),
            "seeds": seeds,
            "results": numbers,
            "differences": [
                {
                    "first": a,
                    "second": b,
                    "first_minus_second": [
                        _short(v) for v in evaluation.paired_difference(results[a], results[b], scored)
                    ],
                }
                for a, b in itertools.combinations(results, 2)
            ],
        }

    def _plot(self, record: Mapping[str, Any], path: Path) -> None:
        """Mean return against the number of training tasks, a line for each selection."""
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for colour, selection in zip(COLOURS, self.selections, strict=False):
            rows = [record["results"][self._label(selection, number)]["score"] for number in self.numbers]
            middle, low, high = np.array(rows).T
            axes.fill_between(self.numbers, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(self.numbers, middle, "o-", color=colour, label=f"selection {selection}")
        for colour, control in zip(COLOURS[len(self.selections) :], self.controls, strict=False):
            rows = record["results"][f"{self._label(self.selections[0], self.numbers[-1])}, {control}"]
            axes.errorbar(
                self.numbers[-1:],
                rows["score"][:1],
                [[rows["score"][0] - rows["score"][1]], [rows["score"][2] - rows["score"][0]]],
                fmt="s",
                color=colour,
                capsize=4,
                label=control,
            )
        for name, value in next(iter(record["results"].values()))["references"].items():
            if name != "random":
                axes.axhline(value, color="0.6", linestyle="--", linewidth=1)
                axes.annotate(name, (self.numbers[0], value), color="0.4", va="bottom", fontsize=8)
        axes.set_xlabel("training tasks")
        axes.set_ylabel(f"return on the {record['split']} tasks, mean")
        axes.set_title(
            f"{record['family']}, {record['protocol']}, {len(self.seeds)} training seeds", fontsize=10
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=140)


def _mean_over_tasks(result: evaluation.Result) -> tuple[float, float, float]:
    """Mean score over runs and tasks, with a 95 % interval over both."""
    scores = result.scores
    runs, tasks = scores.shape
    rng = np.random.default_rng(0)
    run_index = rng.integers(runs, size=(2000, runs, 1))
    task_index = rng.integers(tasks, size=(2000, 1, tasks))
    low, high = np.quantile(scores[run_index, task_index].mean(axis=(1, 2)), [0.025, 0.975])
    return float(scores.mean()), float(low), float(high)


def _last(run_dir: Path, name: str) -> float:
    """The last value of a metric of a run."""
    return float([r[name] for r in read_metrics(run_dir) if name in r][-1])


def _suffix(changes: Sequence[str]) -> str:
    return "".join(f"-{change.replace('=', '-')}" for change in changes)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _table(record: Mapping[str, Any]) -> str:
    """The numbers as text."""
    lines = [f"{'':44} {'score: mean [95 % interval over runs and tasks]':48} each run"]
    for name, numbers in record["results"].items():
        mean, low, high = numbers["score"]
        each = ", ".join(f"{np.mean(row):.4g}" for row in numbers["scores"])
        lines.append(f"{name:44} {f'{mean:.4g} [{low:.4g}, {high:.4g}]':48} {each}")
    references = next(iter(record["results"].values()))["references"]
    lines += [f"{name:44} {value:.4g}" for name, value in references.items()]
    lines += [
        f"{d['first']} minus {d['second']}: {d['first_minus_second'][0]:.3g} "
        f"[{d['first_minus_second'][1]:.3g}, {d['first_minus_second'][2]:.3g}]"
        for d in record["differences"]
    ]
    for seed, by_selection in record["seeds"].items():
        for selection, costs in by_selection.items():
            gap = costs["virtual_minus_real_of_the_last_tasks"]
            lines.append(
                f"seed {seed}, selection {selection}: {costs['env_steps']:,} real steps, "
                f"{costs['skipped_tasks']} tasks skipped, virtual minus real return of the last tasks "
                + ("unknown" if gap is None else f"{gap:.1f}")
            )
    return "\n".join(lines)
