"""Shared code of off-policy and on-policy agents: configuration, seeds, threads, the vector adapter."""
