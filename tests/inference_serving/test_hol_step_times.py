"""Specification of the times that a prefill policy is told: an iteration lasts from its start to its end."""

from __future__ import annotations

from inference_serving.hol_scheduler import ActivationBlocks, HolScheduler
from inference_serving.kv_cache import KvCache
from inference_serving.policies.options import PolicyOptions
from inference_serving.policies.prefill import PrefillPlan
from inference_serving.policies.shortest import ArrivalOrder
from inference_serving.request import Request
from inference_serving.settings import SchedulerSettings


class Costs:
    def batch_ns(self, chunks):
        return sum(tokens for tokens, _ in chunks)


class Recorder(ArrivalOrder):
    """Keeps the times of all iterations."""

    def on_progress(self, plan: PrefillPlan, start_ns: int, end_ns: int) -> None:
        self.times_ns = (*getattr(self, "times_ns", ()), (start_ns, end_ns))
        super().on_progress(plan, start_ns, end_ns)


def test_an_arrival_during_an_iteration_does_not_move_its_start():
    settings = SchedulerSettings(max_num_batched_tokens=100)
    policy = Recorder(Costs(), PolicyOptions(), settings.longest_chunk)
    scheduler = HolScheduler(settings, KvCache(1000, 16), policy, activations=ActivationBlocks(0, 1))
    scheduler.enqueue(Request(0, arrival_ns=0, prompt_tokens=200, output_tokens=1))
    scheduler.schedule(0)
    scheduler.enqueue(Request(1, arrival_ns=60, prompt_tokens=10, output_tokens=1))
    scheduler.complete(100)
    scheduler.schedule(100)
    scheduler.complete(200)
    assert policy.times_ns == ((0, 100), (100, 200))
