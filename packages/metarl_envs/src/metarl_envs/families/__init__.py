"""Families: reading of specifications, tasks, distributions and the frozen tables."""
