"""Builds an algorithm and its simulations, in the process of a run and in those of its actors."""

from __future__ import annotations

import torch

import metarl_envs
from metarl_agents.common.algorithm import MetaAlgorithm
from metarl_agents.common.config import ConfigError, RunConfig
from metarl_agents.common.context import Context
from metarl_agents.common.seeding import stream_seed
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.registry import find_agent


def build(
    agent: str,
    env_id: str,
    config: RunConfig,
    *,
    seed: int,
    device: torch.device,
    threads: int,
    simulations: int,
) -> tuple[MetaAlgorithm, GymVectorEnvAdapter, Context]:
    """Builds an algorithm with fresh weights and its simulations.

    Args:
        agent: name of the agent.
        env_id: id of the family.
        config: the agent's configuration.
        seed: the run's seed.
        device: where networks live.
        threads: number of threads that step simulations, and that work on independent parts of an
            update on a CPU.
        simulations: number of simulations.

    Raises:
        ConfigError: when the training reward is not among the environment's infos.
        ValueError: when the configuration does not fit the family.
    """
    algorithm_class = find_agent(agent).load()
    venv = metarl_envs.MetaVectorEnv(
        env_id,
        simulations,
        split="train",
        observe_task=algorithm_class.observe_task,
        autoreset_mode="Disabled",
        max_episode_steps=config.time_limit(metarl_envs.family(env_id).horizon),
        num_threads=threads,
    )
    _, infos = venv.reset(seed=stream_seed(seed, "environment"))
    for key in config.info_keys:
        if key not in infos:
            raise ConfigError(
                f"training_reward must be 'reward' or an info key of {env_id}, not {key!r}; it has "
                f"{', '.join(sorted(name for name in infos if not name.startswith('_')))}"
            )
    context = Context.of(venv, seed=seed, device=device)
    algorithm: MetaAlgorithm = algorithm_class.from_config(config, context)
    if device.type == "cpu":
        algorithm.threads = threads
    return algorithm, GymVectorEnvAdapter(venv, config.info_keys), context
