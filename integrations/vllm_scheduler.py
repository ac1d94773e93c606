"""Schedulers for vLLM 0.32 (V1): its own with a recording, and one that runs a prefill policy of this project.

Give either as ``scheduler_cls``; the environment says the rest: ``HOL_RECORD`` (file of the recording),
``HOL_POLICY`` and ``HOL_POLICY_ARGS`` (as ``--scheduling-policy`` and ``--policy-args``), ``HOL_HARDWARE``
(the card whose description predicts prefill times).

The policy decides whom of the unfinished prompts runs next and how many tokens of each. vLLM's scheduler still
does all the rest: its own loop runs, with the chosen prompts at the head of the waiting queue and every
unfinished prompt's chunk capped, to nothing where the policy did not choose it. A running prompt that gets
nothing is paused: it keeps its KV blocks and its place.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from inference_serving.latency_costs import LatencyCosts
from inference_serving.policies import make_prefill_policy
from inference_serving.policies.options import parse_pairs
from inference_serving.policies.prefill import PrefillJob, PrefillPlan, PrefillPolicy, account
from integrations.recording import IterationRecorder, clock_ns
from llm_profile.model_config import load_model_config


class RecordingScheduler(Scheduler):
    """vLLM's scheduler, recorded if ``HOL_RECORD`` names a file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        file = os.environ.get("HOL_RECORD")
        self._recorder = IterationRecorder(Path(file)) if file else None
        self._now_ns = clock_ns()
        self._policy_ns = 0

    def add_request(self, request: Request) -> None:
        """Take in a request."""
        self._now_ns = clock_ns()
        if self._recorder:
            self._recorder.added(
                request.request_id, request.num_prompt_tokens, request.priority, self._now_ns
            )
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Form the next batch."""
        self._now_ns = clock_ns()
        if self._recorder:
            self._recorder.begun(self._now_ns)
        self._before_schedule()
        output = super().schedule(throttle_prefills)
        self._after_schedule(output)
        if self._recorder:
            counts = {"w": len(self.waiting), "run": len(self.running), "pre": len(output.preempted_req_ids)}
            self._recorder.scheduled(self._items(output), self._policy_ns, **counts)
        return output

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> Any:
        """Take in what the model has computed."""
        self._now_ns = clock_ns()
        if self._recorder:
            self._recorder.computed(self._now_ns)
        self._after_compute()
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        if self._recorder:
            self._recorder.ended()
        return outputs

    def _before_schedule(self) -> None:
        """What a subclass does before vLLM's own loop, at ``_now_ns``."""

    def _after_schedule(self, output: SchedulerOutput) -> None:
        """What a subclass does once the batch is known."""

    def _after_compute(self) -> None:
        """What a subclass does when the batch has run, at ``_now_ns``."""

    def _items(self, output: SchedulerOutput) -> list[tuple[str, int, int, int]]:
        """Request, tokens, computed before, prompt tokens; vLLM has already counted the tokens as computed."""
        items = []
        for name, tokens in output.num_scheduled_tokens.items():
            request = self.requests[name]
            before = request.num_computed_tokens - tokens
            items.append((name, tokens, before, request.num_prompt_tokens))
        return items


class PolicyScheduler(RecordingScheduler):
    """Prefills in the order and the chunks of a prefill policy; decodes first, as ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.policy is not SchedulingPolicy.FCFS or self.cache_config.enable_prefix_caching:
            raise ValueError("PolicyScheduler needs scheduling_policy=fcfs and enable_prefix_caching=False")
        if self.scheduler_config.long_prefill_token_threshold or self.num_spec_tokens:
            raise ValueError(
                "PolicyScheduler works without long_prefill_token_threshold and speculative decoding"
            )
        self._prefill_policy = _policy(self.vllm_config, self.max_num_scheduled_tokens)
        self._arrivals: dict[str, tuple[int, int]] = {}
        """Number and time of arrival of every request that has not left."""
        self._jobs: dict[str, PrefillJob] = {}
        """Unfinished prompts."""
        self._names: dict[int, str] = {}
        self._arrived = 0
        self._caps: dict[str, int] = {}
        self._plan: PrefillPlan | None = None
        self._step_start_ns = 0

    def add_request(self, request: Request) -> None:
        """Take in a request; its prompt is a job from now on."""
        super().add_request(request)
        self._arrivals[request.request_id] = self._arrived, self._now_ns
        self._arrived += 1
        self._register(request)

    def _register(self, request: Request) -> None:
        number, arrival_ns = self._arrivals[request.request_id]
        job = PrefillJob(
            request_id=number,
            arrival_ns=arrival_ns,
            order=number,
            prompt_tokens=request.num_tokens,
            computed=request.num_computed_tokens,
            priority=request.priority,
        )
        self._jobs[request.request_id] = job
        self._names[number] = request.request_id
        self._prefill_policy.on_arrival(job, self._now_ns)

    def _forget(self, job: PrefillJob) -> None:
        del self._jobs[self._names.pop(job.order)]
        self._prefill_policy.on_finish(job, self._now_ns)

    def _before_schedule(self) -> None:
        """Ask the policy, cap the chunks, and put the prompts that start at the head of the waiting queue."""
        begin_ns = time.perf_counter_ns()
        self._step_start_ns = self._now_ns
        decodes = sum(request.request_id not in self._jobs for request in self.running)
        budget = self.max_num_scheduled_tokens - decodes
        self._plan = None
        if self._jobs and budget > 0:
            self._plan = self._prefill_policy.plan(budget, self._now_ns, self._can_start)
        chunks = self._plan.chunks if self._plan else ()
        self._caps = {self._names[chunk.job.order]: chunk.tokens for chunk in chunks}
        for chunk in reversed(chunks):
            if not chunk.job.started:
                request = self.requests[self._names[chunk.job.order]]
                self.waiting.remove_request(request)
                self.waiting.prepend_request(request)
        self._policy_ns = time.perf_counter_ns() - begin_ns

    def _can_start(self, job: PrefillJob) -> bool:
        """Whether a waiting prompt has a seat, and fits beside all that the started ones will still need."""
        if len(self.running) >= self.max_num_active_reqs:
            return False
        free_blocks = self.kv_cache_manager.block_pool.get_num_free_blocks()
        own_blocks = self._request_remaining_blocks(self.requests[self._names[job.order]])
        return bool(own_blocks + self._inflight_prefill_reserved_blocks() <= free_blocks)

    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int:
        """vLLM's last word on a chunk's length; an unfinished prompt gets what the policy gave it."""
        tokens: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        if request.request_id in self._jobs:
            tokens = min(tokens, self._caps.get(request.request_id, 0))
        return tokens

    def _after_schedule(self, output: SchedulerOutput) -> None:
        """Keep of the plan what vLLM could run: it may have found no block for a chunk."""
        if self._plan is None:
            return
        scheduled = output.num_scheduled_tokens
        ran = [chunk for chunk in self._plan.chunks if scheduled.get(self._names.get(chunk.job.order, ""))]
        for chunk in ran:
            assert scheduled[self._names[chunk.job.order]] == chunk.tokens
            chunk.job.started = True
        self._plan = PrefillPlan(tuple(ran), self._plan.predicted_ns) if ran else None

    def _after_compute(self) -> None:
        """Tell the policy what has run."""
        if self._plan is None:
            return
        # a request may have been aborted while the model ran
        ran = tuple(c for c in self._plan.chunks if self._jobs.get(self._names.get(c.job.order, "")) is c.job)
        plan, self._plan = PrefillPlan(ran, self._plan.predicted_ns), None
        if not ran:
            return
        account(plan)
        self._prefill_policy.on_progress(plan, self._step_start_ns, self._now_ns)
        for chunk in ran:
            if not chunk.job.remaining_tokens:
                self._forget(chunk.job)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """A request gives its KV up; its prompt, and what it had generated, is a new job."""
        super()._preempt_request(request, *args, **kwargs)
        if request.request_id in self._jobs:
            self._forget(self._jobs[request.request_id])
        self._register(request)

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        """A request leaves: it is complete, or was aborted."""
        if request.request_id in self._jobs:
            self._forget(self._jobs[request.request_id])
        self._arrivals.pop(request.request_id, None)
        return super()._free_request(request, *args, **kwargs)


def _policy(config: VllmConfig, token_budget: int) -> PrefillPolicy:
    """The policy that the environment names; its chunks are whole iterations, never layer groups."""
    folder = Path(config.model_config.model)
    model = load_model_config(folder)
    costs = LatencyCosts.of(os.environ.get("HOL_HARDWARE", "CPU"), model.model_dump(), folder)
    name = os.environ.get("HOL_POLICY", "bounded-overtake")
    args = parse_pairs(os.environ.get("HOL_POLICY_ARGS", ""))
    return make_prefill_policy(name, args, costs, token_budget, most_groups=1)
