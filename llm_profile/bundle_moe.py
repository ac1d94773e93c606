"""Experts from a bundle's ``moe.csv``, keyed by (tokens of the batch, experts that got any).

A row is a batch of so many tokens, each for ``num_experts_per_tok`` experts, spread evenly. A rank that has some
of the experts is looked up with its share: its assignments / ``num_experts_per_tok`` tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_profile.bundle_grid import along, axis_of, fill, on_line, scatter
from llm_profile.experts import working
from llm_profile.hardware import datasheet_bandwidth_gbps
from llm_profile.layers import expert_shapes
from llm_profile.plausible import FASTEST_GBPS, MARGIN, MOST_KERNEL_NS, SLOW_FLOPS_NS
from llm_profile.protocol import LatencyQuery, Source
from llm_profile.table_csv import MICROSECONDS, Rows, read_key_rows, refuse_cliffs_along

COLUMNS = ("tokens", "activated_experts")
TOKENS, EXPERTS = range(2)
SLOWEST_GBPS = 10.0


class BundleExperts:
    """Straight lines between measured batches, along both axes."""

    def __init__(self, rows: Rows, experts_per_token: int) -> None:
        self._per_token = experts_per_token
        self._measured = set(map(tuple, rows.keys.tolist()))
        self._axes = axis_of(rows.keys[:, TOKENS]), axis_of(rows.keys[:, EXPERTS])
        # few tokens cannot reach many experts: holes are filled from larger batches of as many experts
        self._grid = fill(scatter(rows.keys, rows.ns, self._axes), self._axes, (TOKENS, EXPERTS))

    def ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        """Time of the experts with tokens; fewer than ever measured cost their share of the fewest measured."""
        counts = working(tokens_per_expert)
        if not counts.size:
            return 0
        tokens, experts = int(counts.sum()) / self._per_token, counts.size
        fewest = self._axes[EXPERTS].knots[0]
        share = min(1.0, experts / fewest)
        line = along(self._grid, self._axes[TOKENS].cell(tokens / share))
        return round(share * on_line(line, self._axes[EXPERTS].cell(max(experts, fewest))))

    def source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        """Measured for an even spread of a measured batch, extrapolated beyond the table."""
        counts = working(tokens_per_expert)
        if not counts.size:
            return Source.MEASURED
        tokens, experts = int(counts.sum()) / self._per_token, counts.size
        if (tokens, experts) in self._measured and np.ptp(counts) <= 1:
            return Source.MEASURED
        inside = all(
            axis.knots[0] <= value <= axis.last
            for axis, value in zip(self._axes, (tokens, experts), strict=True)
        )
        return Source.INTERPOLATED if inside else Source.EXTRAPOLATED


def moe_file(folder: Path, expert_tp_size: int) -> Path:
    """The ``moe.csv`` for experts split over so many ranks, of the bundle with the tp folder ``folder``."""
    return folder.parent / f"tp{expert_tp_size}" / "moe.csv"


def read_moe_rows(file: Path, query: LatencyQuery) -> Rows:
    """Rows of ``moe.csv``; whatever cannot have been measured is an error."""
    rows = read_key_rows(file, COLUMNS, ("time_us", MICROSECONDS), (1, 1))
    model = query.model
    tokens, experts = rows.keys.T
    for wrong, why in (
        (experts > model.num_experts, f"the model has {model.num_experts}"),
        (experts > tokens * model.num_experts_per_tok, f"a token goes to {model.num_experts_per_tok}"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise rows.error(row, f"{experts[row]} experts for {tokens[row]} tokens, but {why}")
    _refuse_impossible(rows, query)
    refuse_cliffs_along(rows, COLUMNS, (TOKENS, EXPERTS))
    return rows


def _refuse_impossible(rows: Rows, query: LatencyQuery) -> None:
    """Find times in another unit by the weights that must be read."""
    shapes = expert_shapes(query.model, query.expert_tp_size).values()
    tokens, experts = rows.keys.T
    weights = experts * sum(shape.weight_elements for shape in shapes) * query.weight_bits / 8
    flops = tokens * query.model.num_experts_per_tok * sum(shape.flops_per_token for shape in shapes)
    known = datasheet_bandwidth_gbps(query.hardware)
    fast = rows.ns * MARGIN < weights / (known or FASTEST_GBPS)
    slow = (
        rows.ns
        > MOST_KERNEL_NS + weights * (MARGIN / known if known else 1 / SLOWEST_GBPS) + flops / SLOW_FLOPS_NS
    )
    wrong = np.flatnonzero(fast | slow)
    if wrong.size:
        row = int(wrong[0])
        how = "fast" if fast[row] else "slow"
        took = f"{experts[row]} experts of {tokens[row]} tokens take {rows.unit.text(float(rows.ns[row]))}"
        raise rows.error(row, f"{took}: no device is that {how}; are these {rows.unit.plural}?")
