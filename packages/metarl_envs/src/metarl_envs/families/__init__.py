"""Families: specifications read and checked, tasks, distributions and the frozen tables."""
