"""KV beyond the NPUs: of preempted requests, and of prefixes that others may find (docs/memory_tiers.md)."""
