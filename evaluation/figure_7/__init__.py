"""Figure 7: memory and prefix hits."""
