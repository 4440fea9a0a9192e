"""Multi-task learning with a behaviour prior: chunks of episodes, values, policies, and what agents share."""
