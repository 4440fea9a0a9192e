"""Importance weighted policy adaptation and its rivals, which start from a pre-trained multi-task agent."""
