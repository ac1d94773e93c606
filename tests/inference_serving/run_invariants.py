"""What docs/invariants.md says of every run, checked on a simulation as it goes and after its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from inference_serving.cluster import Cluster, Role
from inference_serving.instance import Instance
from inference_serving.memory_places import spare_bytes
from inference_serving.metrics import request_metrics
from inference_serving.request import Batch, Request
from inference_serving.request_spec import RequestSpec
from inference_serving.scheduler import IterationOutcome
from inference_serving.simulation import Simulation
from inference_serving.trace import Trace
from inference_serving.trace_shape import KvMoveKind
from llm_profile.layers import kv_bytes_per_token


class Watch:
    """Observes a run: order and limits of iterations, KV blocks in use, tokens computed, bytes moved elsewhere."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.iterations = 0
        self.computed: Counter[Role] = Counter()
        self.moved: Counter[tuple[int, KvMoveKind]] = Counter()
        self.handed_on_bytes = 0
        self._busy: set[tuple[int, int]] = set()

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        stage = 0 if trace.shape.stage is None else trace.shape.stage.part
        where = instance.instance_id, stage
        assert where not in self._busy, "INV-5: an iteration began before the last one ended"
        self._busy.add(where)
        if trace.shape.hands_on is not None:
            spec = instance.spec
            self.handed_on_bytes += (
                2 * trace.tokens * spec.model.hidden_size * spec.precision.weight_bits // 8
            )
        for move in trace.shape.moves:
            self.moved[instance.instance_id, move.kind] += int(trace.sizes[move.access.slot])

    def on_stage_end(self, now_ns: int, instance: Instance, stage: int) -> None:
        self._busy.remove((instance.instance_id, stage))

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        assert now_ns >= self.now_ns, "INV-9: time ran backwards"
        self.now_ns = now_ns
        if instance.spec.pp_size == 1:
            self._busy.remove((instance.instance_id, 0))
        pool, limits = instance.kv_cache, instance.spec.scheduler
        assert 0 <= pool.used_blocks <= pool.capacity_blocks, "INV-2: more KV blocks in use than there are"
        if not batch.grants.size:  # an instance without work in a wave
            return
        self.iterations += 1
        assert batch.total_tokens <= limits.token_budget, "INV-6: too many tokens"
        assert batch.sequences <= (limits.max_num_seqs or batch.sequences), "INV-6: too many sequences"
        longest = int(batch.grants.max())
        assert longest <= (limits.long_prefill_token_threshold or longest), "INV-6: a chunk is too long"
        if batch.layer_group.is_last:
            self.computed[instance.spec.role] += batch.total_tokens


def check_ended(simulation: Simulation, cluster: Cluster, watch: Watch) -> None:
    """All that holds at the end of a run that has not been interrupted."""
    check_requests(simulation)
    check_blocks(simulation)
    check_work(simulation, watch)
    check_sent_bytes(simulation, watch)
    check_tiers(simulation, cluster, watch)


def check_requests(simulation: Simulation) -> None:
    """INV-1, INV-3 and INV-4."""
    finished = Counter(request.request_id for request in simulation.finished)
    assert finished == Counter(range(len(simulation.requests))), "INV-1: not every request finished once"
    for request in simulation.requests:
        times_ns = request.token_times_ns()
        assert times_ns.size == request.generated == request.output_tokens, "INV-1: tokens lost or invented"
        assert (np.diff(times_ns) > 0).all(), "INV-4: tokens came out of order"
        assert request.end_ns == times_ns[-1], "INV-4"
        assert request.arrival_ns <= request.first_scheduled_ns < times_ns[0] <= request.end_ns, "INV-3"


def check_blocks(simulation: Simulation) -> None:
    """INV-2."""
    for instance in simulation.instances.values():
        assert instance.kv_cache.used_blocks == 0, "INV-2: KV blocks are missing at the end"
        assert instance.unfinished_requests == 0
        assert not len(instance.scheduler.waiting)
        assert not len(instance.scheduler.running)


def check_work(simulation: Simulation, watch: Watch) -> None:
    """Every token but a request's last is computed once: where nothing was preempted, not more and not less.

    A prompt that can be found does without what was found, and one that is there from the start without all but its
    last token.
    """
    if any(instance.scheduler.preemptions for instance in simulation.instances.values()):
        return
    apart = any(instance.spec.role is not Role.COLOCATED for instance in simulation.instances.values())
    prompts = sum(_prompt_work(simulation, request) for request in simulation.requests)
    generated = sum(request.output_tokens - 1 for request in simulation.requests)
    if apart:
        assert watch.computed == Counter({Role.PREFILL: prompts, Role.DECODE: generated})
    else:
        assert watch.computed == Counter({Role.COLOCATED: prompts + generated})


def _prompt_work(simulation: Simulation, request: Request) -> int:
    return request.prompt_tokens - simulation.instances[request.first_instance_id].skipped_tokens(request)


def check_sent_bytes(simulation: Simulation, watch: Watch) -> None:
    """INV-7: the K and V of the prompts went to their decode instances once; again only after a given-up chunk.

    Rows that the prefill side found in a cache are sent like all others. A decode instance of more ranks than KV
    heads would get copies; here none has.
    """
    needed = 0
    for request in simulation.requests:
        if request.decode_instance_id >= 0 and request.output_tokens > 1:
            spec = simulation.instances[request.decode_instance_id].spec
            assert spec.tp_size <= spec.model.num_key_value_heads
            token = kv_bytes_per_token(spec.model, 1, spec.precision.kv_bits) * spec.model.num_hidden_layers
            needed += token * request.prompt_tokens
    sent = simulation.counters.p2p_bytes - watch.handed_on_bytes
    cut = any("groups" in dict(one.spec.scheduler.policy_args) for one in simulation.instances.values())
    assert sent >= needed if cut else sent == needed, f"INV-7: {sent} bytes of KV sent, {needed} needed"


def check_tiers(simulation: Simulation, cluster: Cluster, watch: Watch) -> None:
    """INV-16: evicted KV has come back or been dropped, rows moved its bytes, and all room is free but the pools'."""
    tiers = {number: one.tiers for number, one in simulation.instances.items() if one.tiers is not None}
    if not tiers:
        assert not watch.moved
        return
    for number, one in tiers.items():
        swapped = one.swap_statistics
        assert 0 <= swapped.reloaded_tokens <= swapped.evicted_tokens
        spec = simulation.instances[number].spec
        token = (
            kv_bytes_per_token(spec.model, spec.tp_size, spec.precision.kv_bits)
            * spec.model.num_hidden_layers
        )
        evicted = sum(
            size for (who, kind), size in watch.moved.items() if (who, kind.name) == (number, "kv_evict")
        )
        assert evicted == swapped.evicted_tokens * token, "INV-16: bytes evicted"
    left = spare_bytes(cluster)
    for pool in {id(one.pool): one.pool for one in tiers.values() if one.pool is not None}.values():
        for memory in pool.memories:
            left[memory] -= pool.used_bytes // len(pool.memories)
    (spare,) = {id(one._spare): one._spare for one in tiers.values()}.values()
    assert spare.free_bytes == left, "INV-16: room is missing at the end"


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
