"""The agents by name; each is imported when it is first used."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from metarl_agents.common.config import ConfigError, unknown


@dataclass(frozen=True)
class AgentEntry:
    """One agent.

    Attributes:
        name: its name in commands.
        class_path: `module:class` of its algorithm.
        title: a description in one line.
        reference: its paper.
    """

    name: str
    class_path: str
    title: str
    reference: str

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
            name="oracle",
            class_path="metarl_agents.algorithms.oracle:Oracle",
            title="Soft actor-critic with the task in the observation",
            reference="Haarnoja et al. 2018, arXiv:1801.01290",
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
