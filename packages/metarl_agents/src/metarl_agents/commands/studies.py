"""Commands that run the studies of papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarl_agents.commands.options import (
    Overrides,
    Preset,
    Progress,
    Threads,
    TrialTasks,
    integers,
)
from metarl_envs import cli as families

studies = typer.Typer(
    no_args_is_help=True, help="Run a study of a paper: several runs, evaluated and plotted together."
)
StudyFolder = Annotated[Path, typer.Option(help="Folder for the runs and the results.")]


PreTraining = Annotated[str, typer.Option(help="Agent of the pre-training: distral or iwpl.")]


AdaptOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--adapt-set", help="Change a setting of the adaptation. May be repeated.", metavar="KEY=VALUE"
    ),
]


RivalOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--rival-set", help="Change a setting of the rivals' training. May be repeated.", metavar="KEY=VALUE"
    ),
]


@studies.command("mql-ood")
def mql_ood(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the results.")] = Path("runs/ood-study"),
    preset: Preset = "fast",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers of the runs.", min=0)] = 0,
    steps: Annotated[
        int | None,
        typer.Option(help="Number of environment steps of each run (default: the preset's).", min=1),
    ] = None,
    evaluations: Annotated[int, typer.Option(help="Number of evaluations during meta-training.", min=1)] = 10,
    seeds: Annotated[str, typer.Option(help="Seeds of the trials in the final evaluation.")] = "0,1,2",
    overrides: Overrides = None,
    threads: Threads = 1,
    progress: Progress = True,
) -> None:
    """Run the out-of-distribution study of MQL (appendix B), with test velocities outside the training range.

    The study compares three budgets for adaptation: 200 steps, 1200 steps,
    and one long episode of 800 steps. It writes study.json and study.png with
    the return, lambda and beta during meta-training. Run the same command
    again to continue an interrupted study.
    """
    from metarl_agents.run.ood_study import OODStudy

    study = OODStudy(
        out,
        preset=preset,
        seed=seed,
        steps=steps,
        overrides=overrides or [],
        evaluations=evaluations,
        seeds=integers("seeds", seeds),
        threads=threads,
    )
    _say_where(study.run(progress=progress))


@studies.command("iwpa")
def iwpa(
    family_id: families.FamilyId,
    out: StudyFolder = Path("runs/iwpa-study"),
    agent: PreTraining = "distral",
    variants: Annotated[
        str | None,
        typer.Option(
            help="Variants of the adaptation, separated by commas (default: all); a variant may have settings"
            " of its own, e.g. iwpa:initial_weights=random."
        ),
    ] = None,
    rivals: Annotated[
        str | None,
        typer.Option(
            help="Agents that learn to adapt, separated by commas, e.g. pearl_star,rl2_off_policy; they are"
            " trained with the same seeds."
        ),
    ] = None,
    preset: Preset = "fast",
    seeds: Annotated[str, typer.Option(help="Seeds of the pre-training.")] = "0,1,2",
    steps: Annotated[
        int | None,
        typer.Option(help="Number of environment steps of a pre-training (default: the preset's).", min=1),
    ] = None,
    train_tasks: Annotated[
        int | None, typer.Option(help="Number of training tasks (default: all).", min=1)
    ] = None,
    split: Annotated[str, typer.Option(help="Split to adapt to: validation, test or ood.")] = "test",
    episodes: Annotated[int, typer.Option(help="Number of episodes of a trial; the last 3 are scored.")] = 40,
    trial_seeds: Annotated[str, typer.Option(help="Seeds of the trials.")] = "0",
    num_tasks: TrialTasks = None,
    overrides: Overrides = None,
    adapt_overrides: AdaptOverrides = None,
    rival_overrides: RivalOverrides = None,
    threads: Threads = 1,
    progress: Progress = True,
) -> None:
    """Run the adaptation study of IWPA: pre-train, then adapt to test tasks by several methods.

    It writes study.json, study.txt and study.png with the returns along the
    episodes, the areas under the curves and their differences, and the share of
    the validation tasks that the behaviour priors solve. Run the same command
    again to continue an interrupted study.
    """
    from metarl_agents.run.iwpa_study import VARIANTS, IWPAStudy

    study = IWPAStudy(
        out,
        family_id,
        agent=agent,
        train_tasks=train_tasks,
        variants=VARIANTS if variants is None else tuple(variants.split(",")),
        rivals=() if rivals is None else tuple(rivals.split(",")),
        preset=preset,
        seeds=integers("seeds", seeds),
        steps=steps,
        overrides=overrides or [],
        adapt_overrides=adapt_overrides or [],
        rival_overrides=rival_overrides or [],
        split=split,
        episodes=episodes,
        trial_seeds=integers("trial_seeds", trial_seeds),
        num_tasks=num_tasks,
        threads=threads,
    )
    _say_where(study.run(progress=progress))


@studies.command("iwpa-few-tasks")
def iwpa_few_tasks(
    family_id: families.FamilyId,
    out: StudyFolder = Path("runs/iwpa-few-tasks"),
    agent: PreTraining = "distral",
    preset: Preset = "fast",
    seeds: Annotated[str, typer.Option(help="Seeds of the pre-training.")] = "0,1,2",
    steps: Annotated[
        int | None,
        typer.Option(help="Number of environment steps of a pre-training (default: the preset's).", min=1),
    ] = None,
    train_tasks: Annotated[int, typer.Option(help="Number of training tasks.", min=1)] = 8,
    episodes: Annotated[int, typer.Option(help="Number of episodes of a trial; the last 3 are scored.")] = 60,
    trial_seeds: Annotated[str, typer.Option(help="Seeds of the trials.")] = "0",
    overrides: Overrides = None,
    adapt_overrides: AdaptOverrides = None,
    threads: Threads = 1,
    progress: Progress = True,
) -> None:
    """Run IWPA's study of few training tasks: frozen features beside features that are learned further.

    Files as in `metarl study iwpa`.
    """
    from metarl_agents.run.iwpa_study import FEW_TASKS_VARIANTS, IWPAStudy

    study = IWPAStudy(
        out,
        family_id,
        agent=agent,
        train_tasks=train_tasks,
        variants=FEW_TASKS_VARIANTS,
        preset=preset,
        seeds=integers("seeds", seeds),
        steps=steps,
        overrides=overrides or [],
        adapt_overrides=adapt_overrides or [],
        episodes=episodes,
        trial_seeds=integers("trial_seeds", trial_seeds),
        threads=threads,
    )
    _say_where(study.run(progress=progress))


SLBOFamily = Annotated[str, typer.Argument(help="Id of the family.", metavar="ID")]
Seeds = Annotated[str, typer.Option(help="Seeds of the runs.")]
Numbers = Annotated[
    str, typer.Option(help="Numbers of training tasks at which each run is evaluated, separated by commas.")
]


@studies.command("slbo-tasks")
def slbo_tasks(
    family_id: SLBOFamily = "MetaHalfCheetah-VelShort-v0",
    out: StudyFolder = Path("runs/slbo-tasks"),
    numbers: Numbers = "5,10,20,30",
    controls: Annotated[
        bool, typer.Option(help="Evaluate with untrained dynamics and with the simulator, too.")
    ] = True,
    preset: Preset = "fast",
    seeds: Seeds = "0,1,2",
    split: Annotated[str, typer.Option(help="Split to evaluate on: validation, test or ood.")] = "test",
    protocol: Annotated[str, typer.Option(help="Protocol of the evaluation.")] = "slbo_warm_up",
    num_tasks: TrialTasks = None,
    overrides: Overrides = None,
    threads: Threads = 1,
    progress: Progress = True,
) -> None:
    """Run SLBO's study of the number of training tasks: returns on new tasks before any real step of them.

    It writes study.json, study.txt and study.png. Run the same command again to
    continue an interrupted study.
    """
    from metarl_agents.run.slbo_study import CONTROLS, SLBOStudy

    study = SLBOStudy(
        out,
        family_id,
        numbers=integers("numbers", numbers),
        controls=CONTROLS if controls else (),
        preset=preset,
        seeds=integers("seeds", seeds),
        split=split,
        protocol=protocol,
        num_tasks=num_tasks,
        overrides=overrides or [],
        threads=threads,
    )
    _say_where(study.run(progress=progress))


@studies.command("slbo-transfer")
def slbo_transfer(
    family_id: SLBOFamily = "MetaHalfCheetah-VelShort-v0",
    out: StudyFolder = Path("runs/slbo-transfer"),
    training_tasks: Annotated[int, typer.Option(help="Number of training tasks.", min=1)] = 30,
    preset: Preset = "fast",
    seeds: Seeds = "0,1,2",
    protocol: Annotated[str, typer.Option(help="Protocol of the evaluation.")] = "slbo",
    num_tasks: TrialTasks = None,
    overrides: Overrides = None,
    threads: Threads = 1,
    progress: Progress = True,
) -> None:
    """Run SLBO's study of transfer: train on the train split, adapt in stages to the ood split.

    ID is a family with such a split: MetaHalfCheetah-VelShort-v0 and
    MetaAnt-VelShort-v0 (from positive to negative velocities),
    MetaAnt-LowFriction-v0, or MetaAnt-Crippled-v0. Files as in `metarl study
    slbo-tasks`.
    """
    from metarl_agents.run.slbo_study import SLBOStudy

    study = SLBOStudy(
        out,
        family_id,
        numbers=(training_tasks,),
        preset=preset,
        seeds=integers("seeds", seeds),
        split="ood",
        protocol=protocol,
        num_tasks=num_tasks,
        overrides=overrides or [],
        threads=threads,
    )
    _say_where(study.run(progress=progress))


@studies.command("slbo-active")
def slbo_active(
    family_id: SLBOFamily = "MetaAnt-VelShort2D-v0",
    out: StudyFolder = Path("runs/slbo-active"),
    selections: Annotated[
        str, typer.Option(help="Ways to select training tasks: none, real, estimated, window.")
    ] = "none,estimated,real",
    numbers: Numbers = "5,20,30",
    preset: Preset = "fast",
    seeds: Seeds = "0,1,2",
    num_tasks: TrialTasks = None,
    overrides: Overrides = None,
    threads: Threads = 1,
    progress: Progress = True,
) -> None:
    """Run SLBO's study of active task selection: tasks that the dynamics know are skipped, or none are.

    Files as in `metarl study slbo-tasks`.
    """
    from metarl_agents.run.slbo_study import SLBOStudy

    study = SLBOStudy(
        out,
        family_id,
        numbers=integers("numbers", numbers),
        selections=tuple(selections.split(",")),
        preset=preset,
        seeds=integers("seeds", seeds),
        num_tasks=num_tasks,
        overrides=overrides or [],
        threads=threads,
    )
    _say_where(study.run(progress=progress))


def _say_where(path: Path | None) -> None:
    """Says where a study's result is; None if it was interrupted."""
    if path is None:
        raise typer.Exit(130)
    print(f"written: {path} and {path.with_suffix('.png')}")
