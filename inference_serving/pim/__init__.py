"""Decode attention in host memory that computes, and sub-batch interleaving (docs/pim.md)."""
