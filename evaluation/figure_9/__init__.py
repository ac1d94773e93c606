"""Figure 9: a TPU."""
