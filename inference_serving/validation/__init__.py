"""Simulation against a real run: reads files only, never the simulator's objects."""
