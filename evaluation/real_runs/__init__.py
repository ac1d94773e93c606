"""Real runs that belong to no published figure, for the page of errors."""

from __future__ import annotations

from pathlib import Path

from evaluation.figure import Figure
from evaluation.inputs import Inputs
from evaluation.parser.latency import latency_rows
from evaluation.parser.throughput import throughput_rows
from evaluation.real_systems import latency_errors
from evaluation.rows import Row
from evaluation.scenarios import Outcome, Scenario
from inference_serving.validation.readers import read_run

_RTX_RUN = "rtxpro6000_llama31_8b/requests.jsonl"
_RTX_CONFIG = Path(__file__).parent / "config" / "RTXPRO6000_SD.json"


def real_runs(inputs: Inputs) -> list[Figure]:
    """A set of scenarios, with the settings that the runs state; empty if no run is at hand."""
    requests = inputs.real(_RTX_RUN)
    if requests is None:
        return []
    flags = read_run(requests).flags
    rtx = Scenario("RTXPRO6000 SD", _RTX_CONFIG, "sharegpt-llama-3.1-8b-300-sps10", flags)
    return [
        Figure(
            name="real_runs",
            title="real runs with the times of every request",
            scenarios=(rtx,),
            parse=_parse,
            errors=lambda outcome, _: latency_errors(outcome.scenario.name, requests, outcome.files.csv),
            draw=lambda _: [],
        )
    ]


def _parse(outcome: Outcome) -> list[Row]:
    name, files = outcome.scenario.name, outcome.files
    return [*throughput_rows(name, files.summary, files.csv), *latency_rows(name, files.summary)]
