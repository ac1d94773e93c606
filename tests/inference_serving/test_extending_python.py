"""docs/extending.md, run as it stands: a prefill policy and a router of one's own."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from clusters import instance, make_cluster, requests, simulate

from inference_serving.flags import make_parser, simulation_config
from inference_serving.request_spec import RequestSpec

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"```python\n# (\w+)\.py\n(.*?)```", re.DOTALL)
MOST_LINES = 40


@pytest.fixture(autouse=True)
def page_modules(tmp_path, monkeypatch) -> None:
    """The modules of the page can be imported, in this test only."""
    for name, text in BLOCK.findall(PAGE.read_text()):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


def run(tmp_path, workload, flags: str, instances: int = 1):
    args = make_parser().parse_args(["--dataset", "none.jsonl", *flags.split()])
    config = simulation_config(args)
    cluster = make_cluster(tmp_path, [instance(tmp_path)] * instances, config)
    return simulate(cluster, workload, config)


def test_the_page_has_one_policy_and_one_router_in_few_lines():
    blocks = BLOCK.findall(PAGE.read_text())
    assert [name for name, _ in blocks] == ["tiers", "favourite"]
    assert all(len(text.splitlines()) < MOST_LINES for _, text in blocks)


def prompts() -> list[RequestSpec]:
    """A long one, two short ones, and a long one that is urgent."""
    tokens, priorities = (900, 100, 50, 800), (9, 9, 9, 0)
    return [
        RequestSpec(request_id=n, arrival_ns=0, input_tokens=t, output_tokens=1, priority=p)
        for n, (t, p) in enumerate(zip(tokens, priorities, strict=True))
    ]


def test_the_policy_of_the_page_serves_urgent_prompts_and_then_the_shortest(tmp_path):
    flags = "--max-num-batched-tokens 50 --scheduling-policy tiers:Tiers"
    finished = run(tmp_path, prompts(), flags).finished
    assert [one.request_id for one in finished] == [3, 2, 1, 0]


def test_the_policy_of_the_page_has_options(tmp_path):
    flags = "--max-num-batched-tokens 50 --scheduling-policy tiers:Tiers --policy-args urgent=-1"
    finished = run(tmp_path, prompts(), flags).finished
    assert [one.request_id for one in finished] == [2, 1, 3, 0]


@pytest.mark.parametrize(
    "name",
    ["favourite:Favourite --router-args most=", "CUSTOM --router-args class=favourite:Favourite,most="],
)
def test_the_router_of_the_page_prefers_the_first_instance_until_it_has_much_to_do(tmp_path, name):
    def places(most: str) -> list[int]:
        finished = run(
            tmp_path, requests(*[(500, 1)] * 4), f"--request-routing-policy {name}{most}", 2
        ).finished
        return [one.instance_id for one in sorted(finished, key=lambda one: one.request_id)]

    assert places("1000") == [0, 0, 0, 0]
    assert places("0") == [0, 1, 0, 1]
