"""The agents by name, with their presets. An agent is imported when it is used.

Agents from other packages come from the entry-point group `metarl.agents`. Each entry point of the group
names an `AgentEntry`; see "Adding an agent" in CONTRIBUTING.md.
"""

import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, metadata, resources
from typing import TYPE_CHECKING, Any

from metarl_agents.common.config import ConfigError, RunConfig, unknown

if TYPE_CHECKING:
    from metarl_agents.common.algorithm import MetaAlgorithm

#: The entry-point group of agents from other packages.
GROUP = "metarl.agents"


class PresetWarning(UserWarning):
    """A preset has no values of its own for a family."""


class AgentWarning(UserWarning):
    """An agent of another package cannot be used."""


@dataclass(frozen=True)
class AgentEntry:
    """One agent.

    Attributes:
        name: its name in commands.
        class_path: `module:class` of its algorithm.
        title: one line about it.
        reference: the paper it is from.
        presets: `package:file` of its presets, a TOML file in that package; by default
            `metarl_agents:presets/<name>.toml`.
        metrics: names and meanings of the metrics that only this agent logs, for an agent of another
            package; those of the agents here are in `metarl_agents.run.metrics`.
    """

    name: str
    class_path: str
    title: str
    reference: str
    presets: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """Name of the algorithm's class."""
        return self.class_path.partition(":")[2]

    def load(self) -> "type[MetaAlgorithm]":
        """Imports and returns the algorithm's class."""
        module, _, name = self.class_path.partition(":")
        found: type[MetaAlgorithm] = getattr(import_module(module), name)
        return found

    def preset_tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The presets: preset name -> id of a family or "default" -> values.

        Raises:
            ConfigError: when the file is missing or is not TOML.
        """
        package, _, file = (self.presets or f"metarl_agents:presets/{self.name}.toml").partition(":")
        try:
            return tomllib.loads(resources.files(package).joinpath(file).read_text("utf-8"))
        except (OSError, ModuleNotFoundError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(
                f"the presets of {self.name}, {package}:{file}, cannot be read: {error}"
            ) from error

    def config(self, env_id: str, preset: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        """The configuration of one run.

        Values come from the following, later ones winning: the dataclass, the preset's default table, the
        preset's table for the family, the overrides. If there is no table for the family, a
        `PresetWarning` says so; Python shows a warning of the same text once in a process.

        Raises:
            ConfigError: for an unknown preset or key, or a bad value.
        """
        tables = self.preset_tables()
        if preset not in tables:
            raise ConfigError(unknown("preset", preset, tables))
        chosen = tables[preset]
        if env_id not in chosen:
            warnings.warn(
                f"the preset {preset!r} of {self.name} has no values for {env_id}; its default values are "
                "used, which were not chosen for this family",
                PresetWarning,
                stacklevel=2,
            )
        values = chosen.get("default", {}) | chosen.get(env_id, {})
        return self.load().config_class().replace(values).replace(overrides or {})


#: The agents of this package.
AGENTS: dict[str, AgentEntry] = {
    entry.name: entry
    for entry in (
        AgentEntry(
            name="pearl",
            class_path="metarl_agents.algorithms.pearl:PEARL",
            title="Soft actor-critic conditioned on a latent task variable inferred from recent transitions",
            reference="Rakelly et al. 2019, arXiv:1903.08254",
        ),
        AgentEntry(
            name="crl",
            class_path="metarl_agents.algorithms.crl:CRL",
            title="PEARL with a task-specific output layer of the actor, predicted from transitions",
            reference="Liu et al., Celebrating Robustness in Efficient Off-Policy Meta-RL",
        ),
        AgentEntry(
            name="sac",
            class_path="metarl_agents.algorithms.sac:SAC",
            title="Multi-task soft actor-critic without context",
            reference="Haarnoja et al. 2018, arXiv:1812.05905",
        ),
        AgentEntry(
            name="td3",
            class_path="metarl_agents.algorithms.td3:TD3",
            title="Multi-task twin delayed deterministic policy gradient (TD3) without context",
            reference="Fujimoto et al. 2018, arXiv:1802.09477",
        ),
        AgentEntry(
            name="td3_context",
            class_path="metarl_agents.algorithms.td3_context:TD3Context",
            title="TD3 with a recurrent context of the episode's actions, rewards and observations",
            reference="Fakoor et al. 2020, arXiv:1910.00125",
        ),
        AgentEntry(
            name="mql",
            class_path="metarl_agents.algorithms.mql:MQL",
            title="TD3-context with test-time adaptation on propensity-weighted meta-training data",
            reference="Fakoor et al. 2020, arXiv:1910.00125",
        ),
        AgentEntry(
            name="maml",
            class_path="metarl_agents.algorithms.maml:MAML",
            title="Policy initialisation meta-learned for adaptation by policy-gradient steps",
            reference="Finn et al. 2017, arXiv:1703.03400",
        ),
        AgentEntry(
            name="promp",
            class_path="metarl_agents.algorithms.promp:ProMP",
            title="MAML with a low-variance meta-gradient estimator and a clipped outer objective",
            reference="Rothfuss et al. 2019, arXiv:1810.06784",
        ),
        AgentEntry(
            name="meta_sgd",
            class_path="metarl_agents.algorithms.meta_sgd:MetaSGD",
            title="Policy initialisation and per-parameter step sizes, meta-learned jointly",
            reference="Li et al. 2017, arXiv:1707.09835",
        ),
        AgentEntry(
            name="adapt_sv",
            class_path="metarl_agents.algorithms.adapt_sv:AdaptSV",
            title="Shared policy conditioned on a task variable; only this variable is adapted",
            reference="Lan et al. 2019, arXiv:1905.06527",
        ),
        AgentEntry(
            name="tesp",
            class_path="metarl_agents.algorithms.tesp:TESP",
            title="Shared policy conditioned on a task encoder; the encoder is adapted by gradient steps",
            reference="Lan et al. 2019, arXiv:1905.06527",
        ),
        AgentEntry(
            name="joint_oracle",
            class_path="metarl_agents.algorithms.joint_oracle:JointOracle",
            title="Trust-region policy optimisation with the task in the observation",
            reference="Finn et al. 2017, arXiv:1703.03400",
        ),
        AgentEntry(
            name="rl2",
            class_path="metarl_agents.algorithms.rl2:RL2",
            title="PPO on whole trials with a recurrent policy whose state persists across episodes",
            reference="Duan et al. 2016, arXiv:1611.02779",
        ),
        AgentEntry(
            name="svg0",
            class_path="metarl_agents.algorithms.svg0:SVG0",
            title="Multi-task SVG(0) with Retrace; policy and critic receive the id of the training task",
            reference="Heess et al. 2015, arXiv:1510.09142",
        ),
        AgentEntry(
            name="distral",
            class_path="metarl_agents.algorithms.distral:Distral",
            title="SVG(0) with Retrace, regularised by a behaviour prior distilled from all tasks",
            reference="Teh et al. 2017, arXiv:1707.04175",
        ),
        AgentEntry(
            name="mpo",
            class_path="metarl_agents.algorithms.mpo:MPO",
            title="Multi-task MPO with Retrace; policy and critic receive the id of the training task",
            reference="Abdolmaleki et al. 2018, arXiv:1806.06920",
        ),
        AgentEntry(
            name="mpo_distral",
            class_path="metarl_agents.algorithms.mpo_distral:MPODistral",
            title="MPO with Retrace, regularised by a behaviour prior distilled from all tasks",
            reference="Galashov et al. 2020, arXiv:2009.04875",
        ),
        AgentEntry(
            name="iwpl",
            class_path="metarl_agents.algorithms.iwpl:IWPL",
            title="Importance-weighted samples of a behaviour prior instead of a policy",
            reference="Galashov et al. 2020, arXiv:2009.04875",
        ),
        AgentEntry(
            name="pearl_star",
            class_path="metarl_agents.algorithms.pearl_star:PearlStar",
            title="SVG(0) with Retrace and a task variable inferred by an LSTM from the running trial",
            reference="Galashov et al. 2020, arXiv:2009.04875",
        ),
        AgentEntry(
            name="rl2_off_policy",
            class_path="metarl_agents.algorithms.rl2_off_policy:RL2OffPolicy",
            title="SVG(0) with Retrace on whole trials, with recurrent policy and critic",
            reference="Galashov et al. 2020, arXiv:2009.04875",
        ),
        AgentEntry(
            name="slbo",
            class_path="metarl_agents.algorithms.slbo:SLBO",
            title="A model of the dynamics shared by all tasks, in which the policy of each task is trained",
            reference="Landolfi et al. 2019, arXiv:1907.04964",
        ),
        AgentEntry(
            name="oracle",
            class_path="metarl_agents.algorithms.oracle:Oracle",
            title="Soft actor-critic with the task in the observation",
            reference="Haarnoja et al. 2018, arXiv:1801.01290",
        ),
    )
}


@cache
def all_agents() -> Mapping[str, AgentEntry]:
    """The agents of this package, then those of other packages.

    An entry point that cannot be used, or whose name is taken, is left out with an `AgentWarning`.
    """
    found = dict(AGENTS)
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        try:
            entry = point.load()
            if not isinstance(entry, AgentEntry):
                raise TypeError(f"{point.value} is not a metarl_agents.AgentEntry")
            if entry.name in found:
                raise ValueError(f"there is another agent named {entry.name!r}")
        # Whatever a foreign module raises must not take the other agents away.
        except Exception as error:
            warnings.warn(
                f"the agent of the entry point {point.name!r} ({point.value}) cannot be used: {error}",
                AgentWarning,
                stacklevel=2,
            )
        else:
            found[entry.name] = entry
    return found


def find_agent(name: str) -> AgentEntry:
    """The agent of this name.

    Raises:
        ConfigError: for an unknown name, with the nearest one and the list.
    """
    # The agents of this package are found without looking at what else is installed.
    if name in AGENTS:
        return AGENTS[name]
    agents = all_agents()
    if name not in agents:
        raise ConfigError(unknown("agent", name, agents))
    return agents[name]
