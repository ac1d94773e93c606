"""Figure 5: throughput over time."""
