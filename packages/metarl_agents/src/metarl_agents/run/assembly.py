"""The parts of a training run, built from a configuration and a seed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tianshou.trainer import Trainer

import metarl_envs
from metarl_agents.actors.building import build
from metarl_agents.actors.ray_pool import RayPool
from metarl_agents.common.algorithm import MetaAlgorithm
from metarl_agents.common.config import RunConfig
from metarl_agents.common.seeding import numpy_stream
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
from metarl_agents.registry import find_agent
from metarl_agents.run.checkpoint import (
    Checkpoint,
    load_optimiser_tensors,
    optimiser_tensors,
    prefixed,
    unprefixed,
)


@dataclass
class Assembly:
    """An algorithm with its environment, its collector and, if it has one, its replay buffer."""

    algorithm: MetaAlgorithm
    collector: Any
    buffer: Any
    env: GymVectorEnvAdapter
    config: RunConfig

    def trainer(self, logger: Any, save_checkpoint: Any, products: str = "default") -> Trainer:
        """Tianshou's trainer of the algorithm; one epoch is one iteration.

        Args:
            logger: the logger.
            save_checkpoint: called with iteration, environment steps and gradient steps.
            products: what computes matrix products in gradient steps, "default" or "onednn"; see
                `metarl_agents.common.matrix_products`.
        """
        shared = {
            "training_collector": self.collector,
            "epoch_num_steps": 1,
            "logger": logger,
            "save_checkpoint_fn": save_checkpoint,
            # Makes Tianshou read the initial counters from the logger instead of starting at zero.
            "resume_from_log": True,
            "verbose": False,
            "show_progress": False,
        }
        params = self.algorithm.trainer_params(self.config, self.collector, shared)
        trainer = self.algorithm.create_trainer(params)
        trainer.products = products
        return trainer

    @property
    def updates_per_iteration(self) -> int:
        """Gradient steps of an iteration in which all episodes have full length."""
        return self.algorithm.updates_per_iteration(self.config)

    def state(self) -> Checkpoint:
        """The complete state that determines the rest of the run."""
        algorithm, means = self.algorithm, self.algorithm.means
        env_state = self.env.venv.get_state() if self.algorithm.keeps_environment else {}
        env_arrays = {k: v for k, v in env_state.items() if isinstance(v, np.ndarray)}
        arrays = prefixed("environment", env_arrays)
        arrays |= prefixed("means", {"sums": means.sums})
        arrays |= prefixed("generator", {name: g.get_state() for name, g in algorithm.generators().items()})
        for number, optimiser in enumerate(algorithm.optimisers()):
            arrays |= prefixed(f"optimiser.{number}", optimiser_tensors(optimiser))
        values = {
            "means_count": means.count,
            "collector": self.collector.state(),
            "environment": {k: v for k, v in env_state.items() if k not in env_arrays},
        }
        if self.buffer is not None:
            arrays |= prefixed("buffer", self.buffer.state_arrays())
            values["buffer_generator"] = self.buffer.generator_state()
        return Checkpoint(weights=algorithm.network_state(), arrays=arrays, values=values)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Restores what `state` returned."""
        algorithm, means = self.algorithm, self.algorithm.means
        arrays, values = checkpoint.arrays, checkpoint.values
        algorithm.load_network_state(checkpoint.weights)
        if self.buffer is not None:
            self.buffer.load_state_arrays(unprefixed("buffer", arrays))
            self.buffer.load_generator_state(values["buffer_generator"])
        self.collector.load_state(values["collector"])
        if self.algorithm.keeps_environment:
            self.env.venv.set_state({**unprefixed("environment", arrays), **values["environment"]})
        means.count = values["means_count"]
        means.sums.copy_(torch.from_numpy(arrays["means.sums"].copy()))
        for name, generator in algorithm.generators().items():
            generator.set_state(torch.from_numpy(arrays[f"generator.{name}"].copy()))
        for number, optimiser in enumerate(algorithm.optimisers()):
            load_optimiser_tensors(optimiser, unprefixed(f"optimiser.{number}", arrays))


def assemble(
    agent: str,
    env_id: str,
    config: RunConfig,
    *,
    seed: int,
    device: torch.device,
    threads: int,
    pool: RayPool | None = None,
    products: str = "default",
) -> Assembly:
    """Builds the parts of a run; nothing has been collected yet.

    Args:
        agent: name of the agent.
        env_id: id of the family.
        config: the agent's configuration.
        seed: the run's seed.
        device: where networks live.
        threads: number of threads that step simulations, and that work on independent parts of an
            update on a CPU.
        pool: actors that share the iterations; they are started here.
        products: what computes matrix products in updates of actors.

    Raises:
        ConfigError: when the training reward is not among the environment's infos, or there are too many
            actors.
        ValueError: when the configuration does not fit the family.
    """
    family = metarl_envs.family(env_id)
    horizon = config.time_limit(family.horizon)
    # With actors, this process has only the simulations whose state it has to know.
    elsewhere = pool is not None and not find_agent(agent).load().keeps_environment
    algorithm, env, context = build(
        agent,
        env_id,
        config,
        seed=seed,
        device=device,
        threads=threads,
        simulations=1 if elsewhere else config.simulations,
    )
    buffer = algorithm.replay_buffer(config, context)
    collector = algorithm.collector(
        config,
        env,
        tasks=family.tasks("train"),
        horizon=horizon,
        generator=numpy_stream(seed, "collector"),
        buffer=buffer,
    )
    if pool is not None:
        shares = algorithm.shares(config, horizon, pool.count)
        common = {"agent": agent, "env_id": env_id, "config": config, "seed": seed}
        pool.start(
            common | {"threads": threads, "products": products},
            shares,
            [algorithm.simulations_of(config, share) for share in shares],
        )
        algorithm.distribute(collector, pool, shares)
    return Assembly(algorithm, collector, buffer, env, config)
