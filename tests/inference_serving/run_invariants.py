"""What holds at the end of every run (docs/invariants.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_serving.metrics import request_metrics
from inference_serving.request_spec import RequestSpec
from inference_serving.simulation import Simulation


def check_invariants(
    simulation: Simulation, workload: Sequence[RequestSpec], *, one_at_a_time: bool = True
) -> None:
    """Every request has finished once with all its tokens, in order of time; nothing is left of any.

    Without ``one_at_a_time`` tokens of an iteration may come out together.
    """
    assert sorted(r.request_id for r in simulation.finished) == [r.request_id for r in workload]  # INV-1
    for request in simulation.finished:
        times = request.token_times_ns()
        assert times.size == request.output_tokens  # INV-1
        assert np.all(np.diff(times) >= int(one_at_a_time))  # INV-4
        metrics = request_metrics(request)
        assert 0 < metrics.ttft_ns <= metrics.latency_ns  # INV-3
        assert 0 <= metrics.queuing_delay_ns < metrics.ttft_ns
        assert times[-1] == request.end_ns
    for one in simulation.instances.values():
        assert one.kv_cache.free_blocks == one.kv_cache.capacity_blocks  # INV-2
        assert one.unfinished_requests == 0
        assert not one.scheduler.running
        assert not len(one.scheduler.waiting)
    assert simulation.counters.tickets_active == 0
