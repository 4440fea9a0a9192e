"""The commands of `metarl` on agents, runs and results."""
