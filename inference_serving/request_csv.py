"""The per-request CSV: the published columns, then this project's."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from inference_serving.output import RunResult
from inference_serving.request import Request
from inference_serving.slowdown import PrefillFacts
from inference_serving.why import ledger_text

STORAGE_COLUMN = "storage_hit_tokens"
"""Only in runs that have a second tier of the prefix cache, so that others' files stay as they were."""
PUBLISHED_COLUMNS = (
    "instance id",
    "request id",
    "model",
    "input",
    "output",
    "arrival",
    "end_time",
    "latency",
    "queuing_delay",
    "TTFT",
    "TPOT",
    "ITL",
)
OWN_COLUMNS = (
    "prefill_instance_id",
    "decode_instance_id",
    "preemptions",
    "priority",
    "class",
    "isolated_prefill",
    "slowdown",
    "chunks",
    "pauses",
    "overtaken",
    "bound",
    "prefix_hit_tokens",
    "wait_ledger",
    "energy_j",
    "session_id",
    "turn",
    "client_wait",
)


def csv_text(result: RunResult) -> str:
    """The published per-request CSV (ns; ITL a quoted list), with this project's columns after it.

    ``chunks``, ``pauses``, ``overtaken`` and ``bound`` are empty where the policy has no such thing, and
    ``wait_ledger`` where it was not asked for; ``energy_j`` (J) where no node's power is modelled; ``session_id``
    and ``turn`` of requests that stand alone, ``client_wait`` (ns) where concurrency has no limit.
    """
    energy = result.summary.energy
    storage = bool(result.summary.pools)
    lines = [_csv_line(PUBLISHED_COLUMNS + OWN_COLUMNS + ((STORAGE_COLUMN,) if storage else ()))]
    names = {instance_id: _csv_line((name,))[:-1] for instance_id, name in result.model_of_instance.items()}
    for one, prefill in zip(result.metrics, result.prefill, strict=True):
        request = one.request
        itl = one.itl_ns.tolist()  # most of the text, which the csv module would look at letter by letter
        quote = '"' if len(itl) > 1 else ""
        energy_j = f"{energy.of_request_j(request.request_id):.6f}" if energy else ""
        account = result.accounts.get(request.request_id)
        lines.append(
            f"{request.instance_id},{request.request_id},{names[request.instance_id]},"
            f"{request.prompt_tokens},{request.total_tokens},{request.arrival_ns},{request.end_ns},"
            f"{one.latency_ns},{one.queuing_delay_ns},{one.ttft_ns},{one.tpot_ns},{quote}{itl}{quote},"
            f"{request.first_instance_id},{request.instance_id},{request.preemptions},{request.priority},"
            f"{_prefill_cells(prefill)},{request.prefix_hit_tokens},"
            f"{ledger_text(account) if account else ''},{energy_j},"
            f"{_client_cells(request, limited=result.summary.max_concurrency > 0)}"
            f"{f',{request.storage_hit_tokens}' if storage else ''}\n"
        )
    return "".join(lines)


def _prefill_cells(facts: PrefillFacts) -> str:
    if facts.chunks is None and facts.bound_ns is None:  # no prefill policy
        return f"{facts.request_class},{facts.isolated_ns},{facts.slowdown:.6f},,,,"
    policy = (facts.chunks, facts.pauses, facts.overtaken_ns, facts.bound_ns)
    cells = ",".join("" if value is None else str(value) for value in policy)
    return f"{facts.request_class},{facts.isolated_ns},{facts.slowdown:.6f},{cells}"


def _client_cells(request: Request, *, limited: bool) -> str:
    turn = "," if request.session is None else f"{request.session.session_id},{request.session.turn}"
    return f"{turn},{request.client_wait_ns if limited else ''}"


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()
