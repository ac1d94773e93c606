"""A CSV line for every iteration, ``--iteration-log``: from when to when, and which prompts it computed."""

from __future__ import annotations

from collections import defaultdict, deque

from inference_serving.instance import Instance
from inference_serving.request import Batch
from inference_serving.scheduler import IterationOutcome
from inference_serving.trace import Trace

COLUMNS = ("instance", "start", "end", "prefills", "prefill_tokens", "decodes", "group", "groups")


class IterationLog:
    """Observes a run; :meth:`text` is the log so far.

    ``start`` and ``end`` are ns, host overhead included. ``prefills`` lists ``request:tokens`` of the prompts that
    the iteration computes a part of, with spaces between; ``group`` of ``groups`` is the layer group that ran,
    counted from 0; a chunk is in the line of each of its groups. With pipeline stages an iteration starts with its
    first stage and ends with its last, so that lines of one instance overlap.
    """

    def __init__(self) -> None:
        self._lines = [",".join(COLUMNS) + "\n"]
        self._open: defaultdict[int, deque[tuple[int, str]]] = defaultdict(deque)

    def on_submit(self, instance: Instance, trace: Trace, ticket: int) -> None:
        """An iteration starts."""
        assert instance.in_flight is not None
        if not trace.shape.is_first_stage:
            return
        batch = instance.in_flight.batch
        requests = instance.in_flight.requests
        rows = zip(requests, batch.grants.tolist(), batch.context.tolist(), strict=True)
        members = [
            (request.request_id, tokens)
            for request, tokens, context in rows
            if tokens and context < request.prompt_tokens
        ]
        names = " ".join(f"{request_id}:{tokens}" for request_id, tokens in members)
        group = batch.layer_group
        prefill_tokens = sum(tokens for _, tokens in members)
        decodes = batch.sequences - len(members)
        start_ns = instance.in_flight.start_ns
        self._open[instance.instance_id].append(
            (start_ns, f"{names},{prefill_tokens},{decodes},{group.part},{group.parts}")
        )

    def on_iteration(self, now_ns: int, instance: Instance, batch: Batch, outcome: IterationOutcome) -> None:
        """An iteration has ended."""
        start_ns, what = self._open[instance.instance_id].popleft()
        self._lines.append(f"{instance.instance_id},{start_ns},{now_ns},{what}\n")

    def text(self) -> str:
        """The log as CSV, in the order in which iterations ended."""
        return "".join(self._lines)
