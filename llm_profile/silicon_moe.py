"""Experts from the measured rows of the package ``aiconfigurator-core``: grouped kernels, tokens spread evenly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from astra_sim.input_error import InputError
from llm_profile.experts import working
from llm_profile.layer_curve import LayerCurve
from llm_profile.protocol import LatencyQuery, Source
from llm_profile.table_csv import Floats


class SiliconExperts:
    """Time of a rank's experts by their tokens together; how unevenly these are spread is not in the rows."""

    def __init__(self, name: str, query: LatencyQuery, rows: Mapping[int, Floats]) -> None:
        self._name = name
        self._experts = query.model.num_experts
        self._per_token = query.model.num_experts_per_tok
        self._curves = {ranks: LayerCurve(of[:, 0].astype(np.int64), of[:, 1]) for ranks, of in rows.items()}

    def ns(self, tokens_per_expert: NDArray[np.int64]) -> int:
        """Time of the experts; 0 without tokens. Raises InputError if so many of the experts were not measured."""
        if not working(tokens_per_expert).size:
            return 0
        curve, tokens = self._asked(tokens_per_expert)
        return int(curve.ns(np.array([tokens]))[0])

    def source(self, tokens_per_expert: NDArray[np.int64]) -> Source:
        """Interpolated, or extrapolated beyond the measured tokens."""
        if not working(tokens_per_expert).size:
            return Source.MEASURED
        curve, tokens = self._asked(tokens_per_expert)
        return max(Source.INTERPOLATED, curve.source(tokens), key=list(Source).index)

    def _asked(self, tokens_per_expert: NDArray[np.int64]) -> tuple[LayerCurve, int]:
        """The curve of as many ranks as share the experts, and the tokens of all of them for this rank's work."""
        here = len(tokens_per_expert)
        ranks, rest = divmod(self._experts, here)
        if rest or ranks not in self._curves:
            known = ", ".join(str(self._experts // ranks) for ranks in sorted(self._curves))
            raise InputError(self._name, "experts", f"no rows of {here} experts on a rank, only of {known}")
        tokens = int(np.sum(tokens_per_expert)) * ranks / self._per_token
        return self._curves[ranks], max(1, round(tokens))
