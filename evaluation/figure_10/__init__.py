"""Figure 10: attention in memory, and interleaved sub-batches."""
