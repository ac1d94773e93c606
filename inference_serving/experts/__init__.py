"""Mixtures of experts: times, parallelism, data-parallel waves (docs/moe.md)."""
