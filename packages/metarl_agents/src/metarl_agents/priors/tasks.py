"""The training tasks as inputs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl_agents.common.config import ConfigError, unknown
from metarl_agents.common.context import Context


class TrainingTasks(nn.Module):
    """Inputs of each training task for policy and critic, and the index of a task by its parameters.

    Args:
        context: spaces and task parameters.
        descriptor: names of the parameters that are the input; none: the input is the one-hot id.
        chosen: indices of the tasks that are trained on; none: all.

    Raises:
        ConfigError: for an unknown parameter or task.
    """

    def __init__(self, context: Context, descriptor: Sequence[str], chosen: Sequence[int]) -> None:
        super().__init__()
        if chosen and max(chosen) >= context.num_tasks:
            raise ConfigError(
                f"train_tasks must be below {context.num_tasks}, the number of tasks, not {max(chosen)}"
            )
        self.chosen = tuple(chosen) or tuple(range(context.num_tasks))
        self.count = len(self.chosen)
        rows = list(self.chosen)
        parameters = {name: values[rows] for name, values in context.task_parameters.items()}
        columns = []
        for name in descriptor:
            if name not in parameters:
                raise ConfigError(unknown("task parameter of descriptor", name, parameters))
            place = list(parameters).index(name)
            low, high = context.task_space.low[place], context.task_space.high[place]
            columns.append(2.0 * (parameters[name] - low) / (high - low) - 1.0)
        inputs_KD = np.stack(columns, 1) if columns else np.eye(self.count)
        # Not part of the checkpoint: it follows from the family and the configuration.
        self.inputs_KD: Tensor
        self.register_buffer("inputs_KD", torch.from_numpy(inputs_KD.astype(np.float32)), persistent=False)
        vectors_KP = np.stack(list(parameters.values()), 1) if parameters else np.zeros((0, 0))
        # Observations contain task parameters in float32. Of equal tasks, the first one counts.
        self.known: dict[bytes, int] = {}
        for k, vector in enumerate(vectors_KP.astype(np.float32)):
            self.known.setdefault(vector.tobytes(), k)
        self.parameters_size = vectors_KP.shape[1]

    @property
    def width(self) -> int:
        """Size D of a task's input."""
        return self.inputs_KD.shape[1]

    def forward(self, tasks_B: NDArray[Any]) -> Tensor:
        """Inputs (B, D) of these tasks."""
        index_B = torch.from_numpy(np.ascontiguousarray(tasks_B)).to(self.inputs_KD.device)
        return self.inputs_KD[index_B]

    def index(self, parameters_TP: NDArray[np.float32]) -> NDArray[np.int64]:
        """Indices (T,) of tasks by their parameters.

        Raises:
            ValueError: when a task is not one of the training tasks.
        """
        found = [self.known.get(np.asarray(row, np.float32).tobytes()) for row in parameters_TP]
        if None in found:
            row = found.index(None)
            raise ValueError(
                f"the policy of this agent can act on its {self.count} training tasks only, and task {row} "
                "of this evaluation is another one. Evaluate it with --split train. On other splits, the "
                "behaviour prior can act, if the agent has one: metarl evaluate RUN --set act=prior"
            )
        return np.array(found, np.int64)
