"""As much of vLLM's V1 scheduler as ``integrations.vllm_scheduler`` builds on, for machines without vLLM.

Written after the behaviour of vLLM 0.32: running requests first, then the waiting queue from its head until
something is short; a chunk length of 0 passes a running request over and ends admission. What vLLM really
does is checked by the recorded runs; this shows the paths that they do not take.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType, SimpleNamespace

BLOCK_TOKENS = 16


class SchedulingPolicy(Enum):
    FCFS = "fcfs"
    PRIORITY = "priority"


@dataclass(eq=False)
class Request:
    request_id: str
    num_prompt_tokens: int
    max_tokens: int = 4
    priority: int = 0
    num_computed_tokens: int = 0
    output_tokens: int = 0
    blocks: int = 0

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + self.output_tokens


class Queue(deque):
    def remove_request(self, request: Request) -> None:
        self.remove(request)

    def prepend_request(self, request: Request) -> None:
        self.appendleft(request)


@dataclass
class SchedulerOutput:
    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    preempted_req_ids: set[str] = field(default_factory=set)


class Scheduler:
    def __init__(self, config: SimpleNamespace, free_blocks: int = 10**6) -> None:
        self.vllm_config = config
        self.policy = SchedulingPolicy(config.policy)
        self.cache_config = SimpleNamespace(enable_prefix_caching=config.prefix_caching)
        self.scheduler_config = SimpleNamespace(long_prefill_token_threshold=0)
        self.num_spec_tokens = 0
        self.max_num_scheduled_tokens = config.budget
        self.max_num_active_reqs = config.seats
        self.waiting, self.running, self.requests = Queue(), [], {}
        self.free_blocks = free_blocks
        pool = SimpleNamespace(get_num_free_blocks=lambda: self.free_blocks)
        self.kv_cache_manager = SimpleNamespace(block_pool=pool)

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        output, left = SchedulerOutput(), self.max_num_scheduled_tokens
        for request in list(self.running):
            tokens = self._length(request, left)
            while tokens and request in self.running and not self._allocate(request, tokens):
                victim = self.running.pop()
                left += output.num_scheduled_tokens.pop(victim.request_id, 0)
                output.preempted_req_ids.add(victim.request_id)
                self._preempt_request(victim, 0.0)
            if tokens and request in self.running:
                output.num_scheduled_tokens[request.request_id] = tokens
                left -= tokens
        while self.waiting and left and not output.preempted_req_ids:
            request = self.waiting[0]
            tokens = self._length(request, left)
            full = len(self.running) >= self.max_num_active_reqs
            if full or not tokens or not self._allocate(request, tokens):
                break
            self.running.append(self.waiting.popleft())
            output.num_scheduled_tokens[request.request_id] = tokens
            left -= tokens
        for name, tokens in output.num_scheduled_tokens.items():
            self.requests[name].num_computed_tokens += tokens
        return output

    def update_from_output(self, output: SchedulerOutput, model_output: object) -> None:
        for name in output.num_scheduled_tokens:
            request = self.requests.get(name)
            if request is not None and request.num_computed_tokens == request.num_tokens:
                request.output_tokens += 1
                if request.output_tokens == request.max_tokens:
                    self.running.remove(request)
                    self._free_request(request)

    def finish_requests(self, request_id: str) -> None:
        request = self.requests[request_id]
        (self.running if request in self.running else self.waiting).remove(request)
        self._free_request(request)

    def _length(self, request: Request, left: int) -> int:
        tokens = min(request.num_tokens - request.num_computed_tokens, left)
        return self._reserve_prefill_lookahead(request, request.num_computed_tokens, tokens)

    def _allocate(self, request: Request, tokens: int) -> bool:
        extra = max(-(-(request.num_computed_tokens + tokens) // BLOCK_TOKENS) - request.blocks, 0)
        if extra > self.free_blocks:
            return False
        self.free_blocks -= extra
        request.blocks += extra
        return True

    def _request_remaining_blocks(self, request: Request) -> int:
        return -(-request.num_tokens // BLOCK_TOKENS) - request.blocks

    def _inflight_prefill_reserved_blocks(self) -> int:
        unfinished = (one for one in self.running if one.num_computed_tokens < one.num_tokens)
        return sum(self._request_remaining_blocks(one) for one in unfinished)

    def _reserve_prefill_lookahead(self, request: Request, computed: int, tokens: int) -> int:
        return tokens

    def _preempt_request(self, request: Request, timestamp: float) -> None:
        self.free_blocks += request.blocks
        request.blocks = request.num_computed_tokens = 0
        self.waiting.prepend_request(request)

    def _free_request(self, request: Request) -> None:
        self.free_blocks += request.blocks
        del self.requests[request.request_id]


def modules() -> dict[str, ModuleType]:
    """What ``sys.modules`` must have so that the real module can be imported."""
    contents = {
        "vllm": {},
        "vllm.config": {"VllmConfig": SimpleNamespace},
        "vllm.v1": {},
        "vllm.v1.core": {},
        "vllm.v1.core.sched": {},
        "vllm.v1.core.sched.output": {"SchedulerOutput": SchedulerOutput},
        "vllm.v1.core.sched.request_queue": {"SchedulingPolicy": SchedulingPolicy},
        "vllm.v1.core.sched.scheduler": {"Scheduler": Scheduler},
        "vllm.v1.outputs": {"ModelRunnerOutput": object},
        "vllm.v1.request": {"Request": Request},
    }
    made = {}
    for name, members in contents.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(members)
    return made
