"""Sweeps: many runs from one specification, on one or many machines, and the table of their results."""
