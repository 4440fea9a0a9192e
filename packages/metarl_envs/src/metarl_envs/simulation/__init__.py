"""Simulation: the engine, reward terms, rendering."""
