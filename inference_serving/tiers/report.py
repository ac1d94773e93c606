"""What a run's summary says of KV beyond the NPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inference_serving.instance import Instance
from inference_serving.kv_cache import PrefixStatistics
from inference_serving.tiers.kv_tiers import KvTiers
from inference_serving.tiers.prefix_pool import PrefixPool

_MIB = 1 << 20


def pools_of(instances: Mapping[int, Instance]) -> list[PrefixPool]:
    """The pools of the second tier, each once."""
    tiers = [instance.tiers for instance in instances.values() if instance.tiers is not None]
    return list({id(one.pool): one.pool for one in tiers if one.pool is not None}.values())


def prefix_facts(prefix: PrefixStatistics) -> dict[str, float]:
    """Hits of a cache, for the summary's JSON."""
    return {
        "queried_tokens": prefix.queried_tokens,
        "hit_tokens": prefix.hit_tokens,
        "hit_ratio": prefix.hit_ratio,
    }


def tier_facts(tiers: KvTiers | None) -> dict[str, Any]:
    """An instance's second tier and evicted KV, for the summary's JSON; empty without any."""
    facts: dict[str, Any] = {}
    if tiers is not None and tiers.pool is not None:
        facts["prefix_storage"] = prefix_facts(tiers.statistics)
    if tiers is not None and tiers.swaps:
        swap = tiers.swap_statistics
        facts["evicted_kv"] = {
            "evicted_tokens": swap.evicted_tokens,
            "reloaded_tokens": swap.reloaded_tokens,
            "dropped_tokens": swap.dropped_tokens,
        }
    return facts


def tier_lines(tiers: KvTiers | None) -> list[tuple[str, str]]:
    """The same for the summary on stdout."""
    lines: list[tuple[str, str]] = []
    if tiers is not None and tiers.pool is not None:
        lines.append(("Prefix hit ratio, storage (%)", f"{100 * tiers.statistics.hit_ratio:.2f}"))
    if tiers is not None and tiers.swaps:
        swap = tiers.swap_statistics
        lines.append(("KV tokens evicted, reloaded", f"{swap.evicted_tokens}, {swap.reloaded_tokens}"))
    return lines


def pool_facts(pools: Sequence[PrefixPool]) -> list[dict[str, Any]]:
    """The pools of the second tier, for the summary's JSON."""
    return [
        {
            "name": pool.name,
            "limit_bytes": pool.limit_bytes,
            "used_bytes": pool.used_bytes,
            "peak_bytes": pool.peak_bytes,
            "chunks": pool.chunks,
            "evicted_chunks": pool.evicted_chunks,
            **prefix_facts(pool.statistics),
        }
        for pool in pools
    ]


def pool_lines(pools: Sequence[PrefixPool]) -> list[tuple[str, str]]:
    """The same for the summary on stdout."""
    lines = []
    for pool in pools:
        lines += [
            (f"Peak, {pool.name} (MiB)", f"{pool.peak_bytes / _MIB:.0f} of {pool.limit_bytes / _MIB:.0f}"),
            (f"Hit ratio, {pool.name} (%)", f"{100 * pool.statistics.hit_ratio:.2f}"),
        ]
    return lines
