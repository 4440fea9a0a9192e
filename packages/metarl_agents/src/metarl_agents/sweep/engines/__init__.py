"""Engines: where the jobs of a sweep run. All have one interface, `Engine`."""
