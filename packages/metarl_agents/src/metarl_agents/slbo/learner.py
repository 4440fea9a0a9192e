"""One task that multi-task SLBO adapts to, and what it adapts from."""

from __future__ import annotations

import copy
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

import metarl_envs
from metarl_agents.common.seeding import part_seed, stream_seed, torch_stream
from metarl_agents.slbo.config import SLBOConfig
from metarl_agents.slbo.dynamics import Dynamics
from metarl_agents.slbo.noise import OrnsteinUhlenbeck
from metarl_agents.slbo.policy_step import fresh_policy
from metarl_agents.slbo.rollouts import Simulations
from metarl_agents.slbo.training import Settings, VirtualTraining
from metarl_agents.slbo.transitions import COLUMNS, TransitionStore
from metarl_agents.slbo.value import ValueNetwork


class Trained:
    """What a run has learned; tasks of a trial work on copies of it.

    Args:
        config: the configuration.
        family: id of the family.
        dynamics: the learned dynamics.
        value: the value network.
        store: the real steps of the run.
    """

    def __init__(
        self, config: SLBOConfig, family: str, dynamics: Dynamics, value: ValueNetwork, store: TransitionStore
    ) -> None:
        self.config, self.family = config, family
        self.dynamics, self.value, self.store = dynamics, value, store
        self.device = dynamics.weights[0].device
        self.observations, self.actions = store.obs.shape[1], store.act.shape[1]


class Learner:
    """One task of a trial: its policy and its copies of dynamics, values and data.

    Args:
        trained: what the run has learned.
        task: the task.
        seed: seed of all random numbers of the task.
    """

    def __init__(self, trained: Trained, task: metarl_envs.Task, seed: int) -> None:
        config, device = trained.config, trained.device
        self.trained, self.task, self.seed = trained, task, seed
        self.dynamics, self.value = copy.deepcopy(trained.dynamics), copy.deepcopy(trained.value)
        self.policy = fresh_policy(
            trained.observations, config.hidden, trained.actions, torch_stream(seed, "policy")
        ).to(device)
        self.generators = {
            name: torch_stream(seed, name, device) for name in ("update", "rollouts", "acting", "exploration")
        }
        self.exploration = OrnsteinUhlenbeck(
            1, trained.actions, self.generators["exploration"], config.noise_decay, config.noise_scale
        )
        # The optimisers' moments are not part of what was learned.
        rate = config.learning_rate
        parameters = [*self.dynamics.weights, *self.dynamics.biases]
        self.adams = {
            "model": torch.optim.Adam(parameters, rate, fused=True),
            "value": torch.optim.Adam([self.value.flat], rate, fused=True),
        }
        self.own: dict[str, Tensor] = {}
        self.inner_iterations = 0

    def take(self, obs: Tensor, act: Tensor, next_obs: Tensor, ended: Tensor) -> None:
        """Adds real steps of the task."""
        for name, rows in zip(COLUMNS, (obs, act, next_obs, ended), strict=True):
            self.own[name] = torch.cat((self.own[name], rows)) if name in self.own else rows
        self.dynamics.observe(obs, next_obs)

    @property
    def has_data(self) -> bool:
        """Whether there are any steps to learn from."""
        return bool(self.own) or len(self.trained.store) > 0

    def warm_up(self, simulations: Simulations, products: str) -> dict[str, float]:
        """Trains the policy in the dynamics; returns what the last inner iteration has reported.

        Args:
            simulations: simulations of this task, in these dynamics unless they are real.
            products: what computes large matrix products.
        """
        trained, store = self.trained, self.trained.store
        if self.own:
            store = store.copy()
            store.append(*(self.own[name] for name in COLUMNS))
        training = VirtualTraining(
            Settings.of(trained.config),
            self.dynamics,
            self.value,
            store,
            model_adam=self.adams["model"],
            value_adam=self.adams["value"],
            generator=self.generators["update"],
            noise=self.generators["rollouts"],
        )
        training.products = products
        starts = stream_seed(self.seed, "starts")
        found: dict[str, Tensor] = {}
        for _ in range(trained.config.inner_iterations):
            simulations.seed = part_seed(starts, self.inner_iterations)
            found = training.inner_iteration(self.policy, simulations)
            self.inner_iterations += 1
        return {name: float(found[name]) for name in ("virtual_return", "model_error")}

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {
            "policy": self.policy, "dynamics": self.dynamics, "value": self.value,
            "exploration": self.exploration,
        }  # fmt: skip

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The task's state but for its counter."""
        found: dict[str, Tensor] = {f"own.{name}": rows for name, rows in self.own.items()}
        for name, module in self._modules().items():
            found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for name, adam in self.adams.items():
            for number, values in adam.state_dict()["state"].items():
                found |= {f"adam.{name}.{number}.{key}": value for key, value in values.items()}
        found |= {f"generator.{name}": g.get_state() for name, g in self.generators.items()}
        return {name: value.detach().cpu().numpy() for name, value in found.items()}

    def load_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Restores what `arrays` returned."""

        def part(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {
                name.removeprefix(start): torch.from_numpy(array.copy())
                for name, array in arrays.items()
                if name.startswith(start)
            }

        self.own = {name: rows.to(self.trained.device) for name, rows in part("own").items()}
        for name, module in self._modules().items():
            module.load_state_dict(part(name))
        for name, adam in self.adams.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in part(f"adam.{name}").items():
                number, _, entry = key.partition(".")
                state.setdefault(int(number), {})[entry] = value
            adam.load_state_dict({**adam.state_dict(), "state": state})
        for name, generator in self.generators.items():
            generator.set_state(torch.from_numpy(arrays[f"generator.{name}"].copy()))
