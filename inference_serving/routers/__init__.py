"""Routers beyond the published ones, and what a router may ask of an instance."""
