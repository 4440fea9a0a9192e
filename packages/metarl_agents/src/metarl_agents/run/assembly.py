"""The parts of a training run, built from a configuration and a seed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tianshou.trainer import OffPolicyTrainerParams, OnPolicyTrainerParams, Trainer

import metarl_envs
from metarl_agents.common.config import ConfigError, OffPolicyConfig, OnPolicyConfig, RunConfig
from metarl_agents.common.context import Context
from metarl_agents.common.matrix_products import products_by
from metarl_agents.common.seeding import numpy_stream, stream_seed
from metarl_agents.common.vector_adapter import GymVectorEnvAdapter, box_width
from metarl_agents.registry import find_agent
from metarl_agents.replay.algorithm import MetaOffPolicyAlgorithm
from metarl_agents.replay.buffer import TaskReplayBuffer
from metarl_agents.replay.collector import MetaCollector
from metarl_agents.run.checkpoint import (
    Checkpoint,
    load_optimiser_tensors,
    optimiser_tensors,
    prefixed,
    unprefixed,
)
from metarl_agents.trials.algorithm import MetaOnPolicyAlgorithm
from metarl_agents.trials.collector import TrialCollector


@dataclass
class Assembly:
    """An algorithm with its environment, collector and, if it is off-policy, replay buffer."""

    algorithm: MetaOffPolicyAlgorithm[Any] | MetaOnPolicyAlgorithm[Any]
    collector: MetaCollector | TrialCollector
    buffer: TaskReplayBuffer | None
    env: GymVectorEnvAdapter
    config: RunConfig

    def trainer(self, params: OffPolicyTrainerParams | OnPolicyTrainerParams, products: str) -> Trainer:
        """Tianshou's trainer of the algorithm, with matrix products by `products` in gradient steps.

        Args:
            params: what `trainer_params` returned.
            products: "default" or "onednn"; see `metarl_agents.common.matrix_products`.
        """
        trainer = self.algorithm.create_trainer(params)
        update_step = trainer._update_step

        # Every trainer takes its gradient steps in this method, which does nothing else.
        def update_step_by_products(*arguments: Any) -> Any:
            with products_by(products):
                return update_step(*arguments)

        trainer._update_step = update_step_by_products
        return trainer

    def trainer_params(
        self, logger: Any, save_checkpoint: Any
    ) -> OffPolicyTrainerParams | OnPolicyTrainerParams:
        """Parameters that make one epoch of Tianshou's trainer one iteration of the schedule."""
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
        if isinstance(self.collector, TrialCollector):
            return OnPolicyTrainerParams(**shared, collection_step_num_env_steps=1, batch_size=None)
        fewest, usual = self.collector.steps_per_iteration()
        return OffPolicyTrainerParams(
            **shared,
            collection_step_num_env_steps=fewest,
            update_step_num_gradient_steps_per_sample=self.updates_per_iteration / usual,
            batch_size=self.config.batch_size,  # type: ignore[attr-defined]
        )

    @property
    def updates_per_iteration(self) -> int:
        """Gradient steps of one iteration if all episodes have full length."""
        if isinstance(self.algorithm, MetaOnPolicyAlgorithm):
            return self.algorithm.steps_per_update(self.config)
        return int(self.config.updates_per_iteration)  # type: ignore[attr-defined]

    def state(self) -> Checkpoint:
        """The complete state that determines the rest of the run."""
        algorithm, means = self.algorithm, self.algorithm.means
        env_state = self.env.venv.get_state()  # type: ignore[attr-defined]
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
        self.env.venv.set_state(  # type: ignore[attr-defined]
            {**unprefixed("environment", arrays), **values["environment"]}
        )
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
) -> Assembly:
    """Builds the parts of a run; nothing has been collected yet.

    Args:
        agent: name of the agent.
        env_id: id of the family.
        config: the agent's configuration.
        seed: the run's seed.
        device: device of the networks.
        threads: number of threads for simulations and for the tasks of an on-policy update.

    Raises:
        ConfigError: when the training reward is not among the environment's infos.
        ValueError: when the configuration does not fit the family.
    """
    algorithm_class = find_agent(agent).load()
    family = metarl_envs.family(env_id)
    tasks = family.tasks("train")
    info_keys: tuple[str, ...] = ()
    horizon = family.horizon
    if isinstance(config, OnPolicyConfig):
        horizon = config.horizon or horizon
        simulations = config.tasks_per_iteration * config.episodes_per_task
    else:
        assert isinstance(config, OffPolicyConfig)
        simulations, info_keys = config.num_simulations, config.info_keys
    venv = metarl_envs.MetaVectorEnv(
        env_id,
        simulations,
        split="train",
        observe_task=algorithm_class.observe_task,
        autoreset_mode="Disabled",
        max_episode_steps=horizon,
        num_threads=threads,
    )
    env = GymVectorEnvAdapter(venv, info_keys)
    _, infos = venv.reset(seed=stream_seed(seed, "environment"))
    for key in info_keys:
        if key not in infos:
            raise ConfigError(
                f"training_reward must be 'reward' or an info key of {env_id}, not {key!r}; it has "
                f"{', '.join(sorted(name for name in infos if not name.startswith('_')))}"
            )
    algorithm = algorithm_class.from_config(
        config,
        Context.of(venv, seed=seed, device=device),
    )
    shared = {
        "policy": algorithm.policy,
        "env": env,
        "tasks": tasks,
        "tasks_per_iteration": config.tasks_per_iteration,
        "horizon": horizon,
        "generator": numpy_stream(seed, "collector"),
    }
    if isinstance(config, OnPolicyConfig):
        if device.type == "cpu":
            algorithm.threads = threads
        trials = TrialCollector(
            **shared,
            episodes_per_task=config.episodes_per_task,
            batch_names=algorithm_class.batch_names(config),
        )
        return Assembly(algorithm, trials, None, env, config)
    buffer = replay_buffer(
        config, len(tasks), venv.single_observation_space, venv.single_action_space, seed=seed
    )
    collector = MetaCollector(**shared, buffer=buffer, schedule=algorithm_class.schedule(config))
    return Assembly(algorithm, collector, buffer, env, config)


def replay_buffer(
    config: OffPolicyConfig, tasks: int, observation_space: Any, action_space: Any, *, seed: int
) -> TaskReplayBuffer:
    """An empty buffer for runs with this configuration, with the run's own stream of random numbers."""
    return TaskReplayBuffer(
        tasks,
        config.capacity_per_task,
        box_width(observation_space),
        box_width(action_space),
        generator=numpy_stream(seed, "buffer"),
        info_keys=config.info_keys,
    )
