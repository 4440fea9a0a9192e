"""Learning from replayed transitions: buffer, collector, algorithm, value losses."""
