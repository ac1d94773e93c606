"""Figure 6: power and energy."""
