"""Simulation: the engine, reward terms, pictures."""
