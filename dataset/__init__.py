"""Workloads: those of the repository, their generators, and converters of recorded traces."""
