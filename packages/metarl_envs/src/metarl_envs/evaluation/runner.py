"""The trial loop: all tasks of a split in parallel, each in its own simulation."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from metarl_envs.evaluation.agents import (
    Agent,
    RandomAgent,
    Trial,
    ZeroAgent,
)
from metarl_envs.evaluation.episode import Episode, run_episode
from metarl_envs.evaluation.protocol import Protocol
from metarl_envs.evaluation.provenance import Provenance
from metarl_envs.evaluation.report import Report
from metarl_envs.evaluation.scripted import scripted_oracle
from metarl_envs.evaluation.unfinished import Unfinished

# Set by the protocol and the agent, so not allowed in env_arguments.
_RESERVED = ("autoreset_mode", "num_envs", "observe_task", "split", "task", "tasks")


def evaluate(
    agent: Agent,
    family: Any,
    protocol: Protocol,
    *,
    env_arguments: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    agent_name: str | None = None,
    make_vector_env: Callable[..., Any] | None = None,
    unfinished: Unfinished | None = None,
) -> Report:
    """Run the trials of a protocol and report every episode.

    From a seed, each simulation and the agent get separate random streams. The stream of task i does
    not depend on the number of tasks or seeds.

    Args:
        agent: Any object with the methods of `Agent`. With the attribute ``observe_task = True`` the
            task vector is appended to its observations.
        family: A family or its id.
        protocol: The structure of a trial.
        env_arguments: Arguments of the vector environment, as plain JSON values, e.g.
            ``num_threads`` or those of the family.
        progress: Called after every episode of all tasks with the numbers of finished and of all
            episodes.
        agent_name: Name in the report; the agent's class by default.
        make_vector_env: Called instead of `MetaVectorEnv`, with the same arguments, e.g. to wrap
            the environment. Its result must follow the contract of `MetaVectorEnv`.
        unfinished: Where the state is saved between episodes, and from where an interrupted evaluation
            continues.

    Returns:
        The report, without references.

    Raises:
        ValueError: If the family does not have the split or has fewer tasks than the protocol needs,
            if an argument is set by the protocol or is not JSON, if the agent does not support
            `scored_between`, or if its actions have the wrong shape or are not finite.
    """
    # Imported here because MetaVectorEnv imports MuJoCo, which is not needed to read a report.
    import metarl_envs

    started = time.perf_counter()
    if not isinstance(protocol, Protocol):
        raise ValueError(
            "protocol must be a Protocol, e.g. PROTOCOLS['pearl'] of metarl_envs.evaluation, got "
            f"{protocol!r}"
        )
    family = metarl_envs.family(family) if isinstance(family, str) else family
    make_vector_env = make_vector_env or metarl_envs.MetaVectorEnv
    arguments = dict(env_arguments or {})
    if reserved := sorted(set(arguments) & set(_RESERVED)):
        raise ValueError(
            f"env_arguments must not contain {', '.join(reserved)}: the protocol and the agent set them"
        )
    tasks = _tasks(family, protocol)
    observe_task = _sees_task(agent)
    name = agent_name or type(agent).__name__
    between = protocol.scored_between and protocol.adaptation_episodes
    if between and not getattr(agent, "scores_between", False):
        raise ValueError(
            f"agent {name} must have the attribute scores_between = True for a protocol with scored episodes "
            "between adaptation episodes; see metarl_envs.evaluation.Agent"
        )
    horizon = arguments.get("max_episode_steps") or family.horizon
    longest = _longest(protocol, horizon)
    limits = {} if longest == horizon else {"max_episode_steps": longest}
    env = make_vector_env(
        family,
        len(tasks),
        split=protocol.split,
        tasks=tasks,
        observe_task=observe_task,
        autoreset_mode=AutoresetMode.DISABLED,
        **arguments | limits,
    )
    try:
        provenance = Provenance.collect(
            family,
            protocol.split,
            env_arguments=arguments,
            observe_task=observe_task,
            env=env,
            maker=make_vector_env,
        )
        trials = _run(env, agent, name, protocol, len(tasks), horizon, progress, unfinished)
    finally:
        env.close()
    if unfinished is not None:
        unfinished.remove()
    return Report(
        agent=name,
        family=family.id,
        protocol=protocol,
        tasks=tuple(task.to_dict() for task in tasks),
        **_arrays(trials),
        provenance=provenance,
        wall_time=time.perf_counter() - started,
    )


def _run(
    env: Any,
    agent: Agent,
    name: str,
    protocol: Protocol,
    num_tasks: int,
    horizon: int,
    progress: Callable[[int, int], None] | None,
    unfinished: Unfinished | None,
) -> list[list[Episode]]:
    """Runs a protocol's trials.

    Args:
        env: The vector environment, with one simulation per task.
        agent: The agent.
        name: Its name, for messages.
        protocol: What a trial is.
        num_tasks: The number T of tasks.
        horizon: Time limit of episodes without one of their own.
        progress: As in `evaluate`.
        unfinished: As in `evaluate`.

    Returns:
        The episodes of every trial.
    """
    saved = [] if unfinished is None else unfinished.episodes()
    # The last trial of an unfinished evaluation goes on from its saved state.
    trials, begun = saved[:-1], (saved[-1] if saved else [])
    total = len(protocol.seeds) * protocol.num_episodes
    done = itertools.count(1 + sum(map(len, saved)))
    for seed in protocol.seeds[len(trials) :]:
        env_seeds, agent_seed = _spread(seed, num_tasks)
        trial = Trial(
            num_tasks=num_tasks,
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            horizon=_longest(protocol, horizon),
            adaptation_episodes=protocol.adaptation_episodes,
            scored_episodes=protocol.scored_episodes,
            episodes_per_update=protocol.episodes_per_update,
            deterministic=protocol.deterministic,
            seed=agent_seed,
            scored_between=protocol.scored_between,
        )
        agent.begin_trial(trial)
        episodes, begun = begun, []
        trials.append(episodes)
        if episodes and unfinished is not None:
            unfinished.restore(env, agent)
        for number in range(len(episodes), protocol.num_episodes):
            # Seeded once: later episodes of the trial go on in the same streams.
            start = env.reset(seed=env_seeds) if number == 0 else env.reset()
            limit = (protocol.adaptation_horizon if protocol.adapting(number) else None) or horizon
            episodes.append(run_episode(env, agent, name, trial, _sees_task(agent), *start, limit=limit))
            agent.end_episode()
            if unfinished is not None:
                unfinished.save(trials, env, agent)
            if progress is not None:
                progress(next(done), total)
    return trials


def _sees_task(agent: Agent) -> bool:
    return bool(getattr(agent, "observe_task", False))


def _longest(protocol: Protocol, horizon: int) -> int:
    """Returns the largest time limit of any episode of a trial."""
    return max(horizon, protocol.adaptation_horizon or 0)


def reference_reports(
    family: Any,
    protocol: Protocol,
    *,
    env_arguments: Mapping[str, Any] | None = None,
    make_vector_env: Callable[..., Any] | None = None,
) -> dict[str, Report]:
    """Evaluate the reference agents: "zero", "random" and, if there is one, "oracle".

    References do not adapt, so they run only the scored episodes of the protocol.

    Args:
        family: A family or its id.
        protocol: The protocol of the reports that the references are for.
        env_arguments: As in `evaluate`.
        make_vector_env: As in `evaluate`.

    Returns:
        Reports by name of the reference, for `Report.with_references`.

    Raises:
        ValueError: As in `evaluate`.
    """
    agents: dict[str, Agent | None] = {
        "zero": ZeroAgent(),
        "random": RandomAgent(),
        "oracle": scripted_oracle(family if isinstance(family, str) else family.id),
    }
    protocol = dataclasses.replace(protocol, adaptation_episodes=0)
    return {
        name: evaluate(
            agent,
            family,
            protocol,
            env_arguments=env_arguments,
            agent_name=name,
            make_vector_env=make_vector_env,
        )
        for name, agent in agents.items()
        if agent is not None
    }


def _arrays(trials: list[list[Episode]]) -> dict[str, Any]:
    """Returns a report's arrays `(R, T, K)` from K episodes of T tasks in each of R trials."""

    def stacked(rows: list[list[NDArray[Any]]]) -> NDArray[Any]:
        return np.array(rows).swapaxes(1, 2)  # (R, K, T) -> (R, T, K)

    terms = {
        term: stacked([[episode.terms[term] for episode in episodes] for episodes in trials])
        for term in trials[0][0].terms
    }
    others = {
        field.name: stacked([[getattr(episode, field.name) for episode in episodes] for episodes in trials])
        for field in dataclasses.fields(Episode)
        if field.name != "terms"
    }
    return {"reward_terms": terms, **others}


def _tasks(family: Any, protocol: Protocol) -> tuple[Any, ...]:
    tasks = tuple(family.tasks(protocol.split))
    if protocol.num_tasks is not None and protocol.num_tasks > len(tasks):
        raise ValueError(
            f"num_tasks must be at most {len(tasks)}, the size of split {protocol.split!r} of "
            f"{family.id}, got {protocol.num_tasks}"
        )
    return tasks[: protocol.num_tasks]


def _spread(seed: int, count: int) -> tuple[list[int], int]:
    """Seeds of the simulations and of the agent.

    Seeding simulation i with ``seed + i``, as Gymnasium does, would give task i of one run the
    initial states of task i + 1 of the previous run.
    """
    environments, agent = np.random.SeedSequence(seed).spawn(2)
    return environments.generate_state(count).tolist(), int(agent.generate_state(1)[0])
