"""Hyperparameter search with Optuna, on the validation tasks of a family.

    python examples/optuna_search/search.py --trials 20 --out runs/search

Each Optuna trial trains an agent with the preset `fast` and other values of some settings, and evaluates it
on the validation tasks. The study is an SQLite file, which contains no pickled data. The same command
continues an interrupted search, also in the middle of a training run, and more `--trials` extend it. The
result is that of an uninterrupted search. Only one process may work on a study at a time.

For another agent, family or search space, change the constants.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState

from metarl_agents import evaluate_run, resume, train
from metarl_envs.evaluation import summarise

AGENT = "promp"
FAMILY = "MetaPoint-Goal-v0"
#: The settings that are searched; `metarl config AGENT FAMILY` prints all settings.
SPACE: dict[str, BaseDistribution] = {
    "inner_step_size": FloatDistribution(0.05, 2.0, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "clip": FloatDistribution(0.1, 0.5),
}
#: Seeds below are those of reported results, which a search must not see.
FIRST_SEED = 100


def score(folder: Path, values: dict[str, Any], *, steps: int, seed: int) -> float:
    """Trains with these values, or continues to, and returns the score on the validation tasks.

    Args:
        folder: the run's directory.
        values: the searched settings.
        steps: environment steps of the run.
        seed: seed of the training and of the trials in the evaluation.

    Returns:
        The interquartile mean over tasks of the scored episodes' return; higher is better.

    Raises:
        KeyboardInterrupt: when a signal has stopped the training. Its checkpoint is saved.
    """
    if (folder / "config.json").exists():
        result = resume(folder, progress=False)
    else:
        overrides = [f"{name}={value}" for name, value in values.items()]
        result = train(AGENT, FAMILY, seed=seed, steps=steps, out=folder, overrides=overrides, progress=False)
    if not result.finished:
        raise KeyboardInterrupt
    report = evaluate_run(folder, split="validation", seeds=[seed], references=False)
    return summarise(report).score.value


def search(out: Path, *, trials: int, steps: int, seed: int) -> optuna.Study:
    """Starts or continues a study, until it has this number of finished trials.

    Args:
        out: directory of the study and of the runs.
        trials: number of trials, including those of earlier calls.
        steps: environment steps of each run.
        seed: seed of the study and of all runs.
    """
    name = f"{AGENT}-{FAMILY}-{steps}-steps-seed-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{out / 'study.db'}", study_name=name, direction="maximize", load_if_exists=True
    )

    def finish(number: int, values: dict[str, Any]) -> None:
        found = score(out / name / f"trial-{number}", values, steps=steps, seed=seed)
        study.tell(number, found)
        print(f"trial {number}: {found:.2f} with {values}")

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.params.keys() == SPACE.keys():
            finish(trial.number, trial.params)
        else:  # stopped while its values were drawn
            study.tell(trial.number, state=TrialState.FAIL)
    while len(study.get_trials(states=(TrialState.COMPLETE,))) < trials:
        # A generator for each trial: one for all of them would start again in the next call, and would
        # have to be pickled to be stored.
        stream = np.random.SeedSequence([seed, len(study.get_trials())])
        study.sampler = optuna.samplers.TPESampler(seed=int(stream.generate_state(1)[0]))
        trial = study.ask(SPACE)
        finish(trial.number, trial.params)
    return study


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=f"Searches settings of {AGENT} on {FAMILY}.")
    parser.add_argument(
        "--trials", type=int, default=20, help="number of trials, with those of earlier calls"
    )
    parser.add_argument("--steps", type=int, default=800_000, help="environment steps of each run")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="seed of the study and of all runs")
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="directory of study and runs")
    given = parser.parse_args(arguments)
    if given.seed < FIRST_SEED:
        parser.error(f"--seed must be at least {FIRST_SEED}: lower seeds are those of reported results")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = search(given.out, trials=given.trials, steps=given.steps, seed=given.seed)
    print(f"best: trial {study.best_trial.number}, {study.best_value:.2f} with {study.best_params}")


if __name__ == "__main__":
    main()
