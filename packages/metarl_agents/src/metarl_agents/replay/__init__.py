"""Off-policy learning: replay buffer, collector, algorithm, value losses."""
