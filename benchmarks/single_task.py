"""Returns and training time of SAC and TD3 on one task, compared with Tianshou and Stable-Baselines3.

    python benchmarks/single_task.py metarl sac 0 15000

trains SAC of this project (or of `tianshou`, or of `sb3`, which is not among the project's dependencies
and needs a virtual environment that has it) with seed 0 for 15,000 environment steps on the half-cheetah
with the task to run forward, and prints a line of JSON. Schedule and hyperparameters are the same: 1,000
random steps, then episodes of 200 steps, each followed by 200 gradient steps. Other differences between the
libraries remain: this project's SAC initialises its last layers near zero, and its TD3 counts the delay of
the actor from the end of each episode.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch

import metarl_envs

FAMILY = "MetaHalfCheetah-Dir-v0"
TASK = next(task for task in metarl_envs.family(FAMILY).tasks("train") if task.vector[0] > 0)
RANDOM_STEPS, HORIZON, REPORT_EVERY = 1_000, 200, 5_000
HIDDEN, BATCH, RATE, GAMMA, TAU = (128, 128), 256, 1e-3, 0.99, 0.005
NOISE, TARGET_NOISE, TARGET_CLIP, DELAY = 0.1, 0.2, 0.5, 2

#: Trains for so many further environment steps.
Train = Callable[[int], None]
#: Deterministic actions of a batch of observations.
Act = Callable[[np.ndarray], np.ndarray]


def environment() -> Any:
    """Returns the task as a Gymnasium environment, with the family's time limit."""
    return gymnasium.make(FAMILY, task=TASK.index)


def score(act: Act) -> float:
    """Returns the mean return of ten deterministic episodes, always from the same initial states."""
    env = metarl_envs.MetaVectorEnv(FAMILY, 10, task=TASK, num_threads=1, autoreset_mode="Disabled")
    observations, _ = env.reset(seed=10_000)
    returns = np.zeros(10)
    for _ in range(HORIZON):
        observations, rewards, *_ = env.step(np.asarray(act(observations), np.float32))
        returns += rewards
    env.close()
    return float(returns.mean())


def of_metarl(name: str, seed: int) -> tuple[Train, Act]:
    """Returns this project's agent, on one task instead of a split."""
    from tianshou.utils.torch_utils import policy_within_training_step

    from metarl_agents.common.context import Context
    from metarl_agents.common.seeding import numpy_stream, stream_seed
    from metarl_agents.common.vector_adapter import GymVectorEnvAdapter
    from metarl_agents.registry import find_agent

    algorithm_class = find_agent(name).load()
    values: dict[str, Any] = {
        "hidden": HIDDEN,
        "learning_rate": RATE,
        "gamma": GAMMA,
        "tau": TAU,
        "initial_steps": RANDOM_STEPS,
        "tasks_per_iteration": 1,
        "steps_per_task": HORIZON,
        "capacity_per_task": 100_000,
    }
    if name == "td3":
        values |= {
            "exploration_noise": NOISE,
            "target_noise": TARGET_NOISE,
            "target_noise_clip": TARGET_CLIP,
            "policy_every": DELAY,
            "initial_cut": 0,
        }
    config = algorithm_class.config_class(**values)
    venv = metarl_envs.MetaVectorEnv(FAMILY, 1, task=TASK, num_threads=1, autoreset_mode="Disabled")
    venv.reset(seed=stream_seed(seed, "environment"))
    context = replace(Context.of(venv, seed=seed, device=torch.device("cpu")), num_tasks=1)
    algorithm = algorithm_class.from_config(config, context)
    buffer = algorithm.replay_buffer(config, context)
    collector = algorithm.collector(
        config,
        GymVectorEnvAdapter(venv, ()),
        tasks=(TASK,),
        horizon=HORIZON,
        generator=numpy_stream(seed, "collector"),
        buffer=buffer,
    )

    def train(steps: int) -> None:
        if not collector.collect_step:
            steps -= collector.collect_initial().n_collected_steps
        with policy_within_training_step(algorithm.policy):
            for _ in range(steps // HORIZON):
                collector.collect(n_step=HORIZON)
                algorithm.begin_updates()
                for _ in range(HORIZON):
                    algorithm.update(buffer, BATCH)

    return train, lambda observations: algorithm.policy.act_on_arrays(observations, deterministic=True)


def of_tianshou(name: str, seed: int) -> tuple[Train, Act]:
    """Returns Tianshou's agent with its own collector and trainer."""
    # Tianshou shows the bar of its gradient steps whatever `show_progress` says.
    os.environ["TQDM_DISABLE"] = "1"
    from tianshou.algorithm import SAC, TD3
    from tianshou.algorithm.modelfree.ddpg import ContinuousDeterministicPolicy
    from tianshou.algorithm.modelfree.sac import AutoAlpha, SACPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Batch, Collector, ReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.exploration import GaussianNoise
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import (
        ContinuousActorDeterministic,
        ContinuousActorProbabilistic,
        ContinuousCritic,
    )

    np.random.seed(seed)  # noqa: NPY002  (what Tianshou's exploration draws from)
    torch.manual_seed(seed)
    envs = DummyVectorEnv([environment])
    envs.seed(seed)
    env = environment()
    width, actions = env.observation_space.shape, env.action_space.shape
    rate = AdamOptimizerFactory(lr=RATE)

    def critic() -> Any:
        net = Net(state_shape=width, action_shape=actions, hidden_sizes=HIDDEN, concat=True)
        return ContinuousCritic(preprocess_net=net)

    body = Net(state_shape=width, hidden_sizes=HIDDEN)
    shared: dict[str, Any] = {
        "policy_optim": rate,
        "critic": critic(),
        "critic_optim": rate,
        "critic2": critic(),
        "critic2_optim": rate,
        "tau": TAU,
        "gamma": GAMMA,
    }
    if name == "sac":
        actor = ContinuousActorProbabilistic(
            preprocess_net=body, action_shape=actions, unbounded=True, conditioned_sigma=True
        )
        policy = SACPolicy(actor=actor, action_space=env.action_space)
        alpha = AutoAlpha(-float(actions[0]), 0.0, rate)
        algorithm = SAC(policy=policy, alpha=alpha, **shared)
    else:
        policy = ContinuousDeterministicPolicy(
            actor=ContinuousActorDeterministic(preprocess_net=body, action_shape=actions),
            exploration_noise=GaussianNoise(sigma=NOISE),
            action_space=env.action_space,
        )
        algorithm = TD3(
            policy=policy,
            policy_noise=TARGET_NOISE,
            noise_clip=TARGET_CLIP,
            update_actor_freq=DELAY,
            **shared,
        )
    collector = Collector(algorithm, envs, ReplayBuffer(100_000), exploration_noise=True)
    collector.reset()
    trainers: list[Any] = []

    def train(steps: int) -> None:
        if not trainers:
            collector.collect(n_step=RANDOM_STEPS, random=True)
            steps -= RANDOM_STEPS
            params = OffPolicyTrainerParams(
                training_collector=collector,
                collection_step_num_env_steps=HORIZON,
                update_step_num_gradient_steps_per_sample=1.0,
                batch_size=BATCH,
                show_progress=False,
                verbose=False,
            )
            trainers.append(algorithm.create_trainer(params))
            trainers[0].reset(reset_collectors=False)
        trainers[0].params.epoch_num_steps = steps
        trainers[0].execute_epoch()

    @torch.no_grad()
    def act(observations: np.ndarray) -> np.ndarray:
        return np.asarray(policy.map_action(policy(Batch(obs=observations, info={})).act.numpy()))

    return train, act


def of_sb3(name: str, seed: int) -> tuple[Train, Act]:
    """Returns Stable-Baselines3's agent."""
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.noise import NormalActionNoise

    shared: dict[str, Any] = {
        "learning_rate": RATE,
        "buffer_size": 100_000,
        "learning_starts": RANDOM_STEPS,
        "batch_size": BATCH,
        "tau": TAU,
        "gamma": GAMMA,
        "train_freq": (1, "episode"),
        "gradient_steps": -1,
        "policy_kwargs": {"net_arch": list(HIDDEN), "activation_fn": torch.nn.ReLU},
        "seed": seed,
        "device": "cpu",
    }
    env = environment()
    if name == "sac":
        model = SAC("MlpPolicy", env, ent_coef="auto_1.0", target_entropy="auto", **shared)
    else:
        size = env.action_space.shape[0]
        model = TD3(
            "MlpPolicy",
            env,
            action_noise=NormalActionNoise(np.zeros(size), np.full(size, NOISE)),
            target_policy_noise=TARGET_NOISE,
            target_noise_clip=TARGET_CLIP,
            policy_delay=DELAY,
            **shared,
        )

    def train(steps: int) -> None:
        model.learn(steps, reset_num_timesteps=False)

    return train, lambda observations: model.predict(observations, deterministic=True)[0]


LIBRARIES = {"metarl": of_metarl, "tianshou": of_tianshou, "sb3": of_sb3}


def main(arguments: list[str]) -> int:
    """Trains one agent and prints its returns and seconds."""
    if len(arguments) != 4 or arguments[0] not in LIBRARIES or arguments[1] not in ("sac", "td3"):
        print(f"usage: single_task.py {'|'.join(LIBRARIES)} sac|td3 SEED STEPS", file=sys.stderr)
        return 2
    library, name, seed, steps = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    torch.set_num_threads(1)
    train, act = LIBRARIES[library](name, seed)
    returns: list[float] = []
    wall = processor = 0.0
    for done in range(0, steps, REPORT_EVERY):
        starts = time.perf_counter(), time.process_time()
        train(min(REPORT_EVERY, steps - done))
        wall += time.perf_counter() - starts[0]
        processor += time.process_time() - starts[1]
        returns.append(round(score(act), 1))
    figures = {
        "library": library,
        "agent": name,
        "seed": seed,
        "steps": steps,
        f"return every {REPORT_EVERY} steps": returns,
        "seconds": round(wall, 1),
        "processor seconds": round(processor, 1),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
