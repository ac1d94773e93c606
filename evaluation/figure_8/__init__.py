"""Figure 8: other simulators."""
