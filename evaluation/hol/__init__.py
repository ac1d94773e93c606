"""Head-of-line blocking: a sweep over workloads, loads and policies, its tables and its figures."""
