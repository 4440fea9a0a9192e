"""An agent in a package of its own: metarl finds it by the entry point in pyproject.toml."""

from metarl_agents import AgentEntry

ENTRY = AgentEntry(
    name="reptile",
    class_path="reptile_agent.reptile:Reptile",
    title="Initial parameters moved towards the parameters adapted to each task",
    reference="Nichol et al. 2018, arXiv:1803.02999",
    presets="reptile_agent:presets.toml",
    metrics={"update/outer_step": "Euclidean length of the outer step"},
)
