"""The project's prefill policies inside real serving engines."""
