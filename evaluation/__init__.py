"""Evaluations: what a question needs to be run, measured and drawn, from output files only."""
