"""Workloads in which long prompts stand in the way of short ones, and their generator."""
