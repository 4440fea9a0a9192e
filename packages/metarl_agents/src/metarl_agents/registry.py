"""The agents by name, imported one by one when asked for."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from metarl_agents.common.config import ConfigError, unknown


@dataclass(frozen=True)
class AgentEntry:
    """One agent.

    Attributes:
        name: what commands call it.
        class_path: `module:class` of its algorithm.
        title: one line about it.
        reference: the paper it is from.
        tier: "verified" where `results/` holds a learning result with seeds and commands, else
            "implemented".
    """

    name: str
    class_path: str
    title: str
    reference: str
    tier: str

    @property
    def class_name(self) -> str:
        """Name of the algorithm's class."""
        return self.class_path.partition(":")[2]

    def load(self) -> Any:
        """Imports and returns the algorithm's class."""
        module, _, name = self.class_path.partition(":")
        return getattr(import_module(module), name)


AGENTS: dict[str, AgentEntry] = {
    entry.name: entry
    for entry in (
        AgentEntry(
            name="pearl",
            class_path="metarl_agents.algorithms.pearl:PEARL",
            title="Soft actor-critic on a latent task variable inferred from recent transitions",
            reference="Rakelly et al. 2019, arXiv:1903.08254",
            tier="verified",
        ),
        AgentEntry(
            name="crl",
            class_path="metarl_agents.algorithms.crl:CRL",
            title="PEARL whose actor has an output layer per task, predicted from transitions",
            reference="Liu et al., Celebrating Robustness in Efficient Off-Policy Meta-RL",
            tier="verified",
        ),
        AgentEntry(
            name="sac",
            class_path="metarl_agents.algorithms.sac:SAC",
            title="Soft actor-critic over all tasks, without context",
            reference="Haarnoja et al. 2018, arXiv:1812.05905",
            tier="verified",
        ),
        AgentEntry(
            name="td3",
            class_path="metarl_agents.algorithms.td3:TD3",
            title="Twin delayed deterministic policy gradient over all tasks, without context",
            reference="Fujimoto et al. 2018, arXiv:1802.09477",
            tier="verified",
        ),
        AgentEntry(
            name="td3_context",
            class_path="metarl_agents.algorithms.td3_context:TD3Context",
            title="TD3 on a recurrent context of the episode's actions, rewards and observations",
            reference="Fakoor et al. 2020, arXiv:1910.00125",
            tier="verified",
        ),
        AgentEntry(
            name="mql",
            class_path="metarl_agents.algorithms.mql:MQL",
            title="TD3-context that adapts with propensity-weighted replay of its meta-training",
            reference="Fakoor et al. 2020, arXiv:1910.00125",
            tier="verified",
        ),
        AgentEntry(
            name="maml",
            class_path="metarl_agents.algorithms.maml:MAML",
            title="Parameters from which one policy-gradient step on a task makes a good policy",
            reference="Finn et al. 2017, arXiv:1703.03400",
            tier="verified",
        ),
        AgentEntry(
            name="promp",
            class_path="metarl_agents.algorithms.promp:ProMP",
            title="MAML with a meta-gradient of low variance and a clipped outer step",
            reference="Rothfuss et al. 2019, arXiv:1810.06784",
            tier="verified",
        ),
        AgentEntry(
            name="meta_sgd",
            class_path="metarl_agents.algorithms.meta_sgd:MetaSGD",
            title="A policy's start and the step size of each of its parameters, learned together",
            reference="Li et al. 2017, arXiv:1707.09835",
            tier="verified",
        ),
        AgentEntry(
            name="adapt_sv",
            class_path="metarl_agents.algorithms.adapt_sv:AdaptSV",
            title="A shared policy conditioned on a variable per task, which alone takes gradient steps",
            reference="Lan et al. 2019, arXiv:1905.06527",
            tier="verified",
        ),
        AgentEntry(
            name="tesp",
            class_path="metarl_agents.algorithms.tesp:TESP",
            title="A shared policy conditioned on a task encoder, which takes gradient steps on each task",
            reference="Lan et al. 2019, arXiv:1905.06527",
            tier="verified",
        ),
        AgentEntry(
            name="joint_oracle",
            class_path="metarl_agents.algorithms.joint_oracle:JointOracle",
            title="Trust-region policy optimisation that observes the task",
            reference="Finn et al. 2017, arXiv:1703.03400",
            tier="verified",
        ),
        AgentEntry(
            name="rl2",
            class_path="metarl_agents.algorithms.rl2:RL2",
            title="PPO on whole trials with a recurrent policy that remembers earlier episodes",
            reference="Duan et al. 2016, arXiv:1611.02779",
            tier="verified",
        ),
        AgentEntry(
            name="oracle",
            class_path="metarl_agents.algorithms.oracle:Oracle",
            title="Soft actor-critic that observes the task",
            reference="Haarnoja et al. 2018, arXiv:1801.01290",
            tier="verified",
        ),
    )
}


def find_agent(name: str) -> AgentEntry:
    """The agent of this name.

    Raises:
        ConfigError: for an unknown name, with the nearest one and the list.
    """
    if name not in AGENTS:
        raise ConfigError(unknown("agent", name, AGENTS))
    return AGENTS[name]
