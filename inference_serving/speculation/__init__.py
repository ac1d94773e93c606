"""Speculative decoding: drafts, flags, scheduler (docs/speculative.md)."""
