"""The driver that serves a workload with vLLM, on an engine that answers at once."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from inference_serving.policies.options import parse_pairs
from inference_serving.validation.readers import read_run

MODEL = Path(__file__).parents[2] / "integrations" / "llama_82m.json"


class Engine:
    """Stands in for ``AsyncLLM``: every token is 7; remembers what it was asked."""

    starts = 0
    fails = False

    def __init__(self, args: SimpleNamespace) -> None:
        self.args = args
        self.priorities: list[int] = []
        cache = SimpleNamespace(num_gpu_blocks=99, block_size=128)
        self.vllm_config = SimpleNamespace(cache_config=cache)
        Path(os.environ["HOL_RECORD"]).write_text('{"ev":"note"}\n')

    @classmethod
    def from_engine_args(cls, args: SimpleNamespace) -> Engine:
        cls.starts += 1
        cls.last = cls(args)
        return cls.last

    async def generate(self, prompt, sampling, name, priority):
        assert all(0 <= token < 4096 for token in prompt["prompt_token_ids"])
        self.priorities.append(priority)
        if self.fails:
            raise RuntimeError("out of memory")
        for _ in range(sampling.max_tokens):
            yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[7])])

    def shutdown(self) -> None:
        pass


@pytest.fixture
def driver(monkeypatch):
    contents = {
        "vllm": {"SamplingParams": SimpleNamespace},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": SimpleNamespace},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA="delta")},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": Engine},
    }
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "integrations.drive_vllm", raising=False)
    for name in ("HOL_RECORD", "HOL_POLICY", "HOL_POLICY_ARGS", "HOL_HARDWARE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(Engine, "starts", 0)
    module = importlib.import_module("integrations.drive_vllm")
    monkeypatch.setattr(module, "START_AFTER_S", 0.0)
    yield module
    sys.modules.pop("integrations.drive_vllm", None)


def arguments(folder: Path, *more: str) -> list[str]:
    load = ("--requests=4", "--rate=1000", "--long-share=0")
    return [f"--model-config={MODEL}", f"--output={folder / 'run'}", *load, *more]


def lines(folder: Path) -> list[dict]:
    text = gzip.decompress((folder / "run.reqs.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_is_written_as_recorded_runs_are(driver, tmp_path):
    policy = ("--policy=bounded-overtake", "--policy-args=chunk=480")
    assert driver.main(arguments(tmp_path, *policy)) == 0
    run = read_run(tmp_path / "run.reqs.jsonl.gz")
    assert len(run.requests) == 4
    assert run.kv_blocks == 99
    assert run.flags[-2:] == ("--block-size", "128")
    meta = lines(tmp_path)[0]["meta"]
    assert (meta["hardware"], meta["model"]["num_hidden_layers"]) == ("CPU", 12)
    options = parse_pairs(meta["policy_args"])
    assert (options["chunk"], options["beta"], options["groups"]) == ("480", "0.5", "1")
    assert meta["card"]["coefficients"]
    assert {one["tok0"] for one in lines(tmp_path)[1:]} == {7}
    iterations = (tmp_path / "run.iters.jsonl.gz").read_bytes()
    assert gzip.decompress(iterations) == b'{"ev":"note"}\n'


@pytest.mark.parametrize(
    ("policy", "engines", "scheduler"),
    [
        ("fcfs", "fcfs", "RecordingScheduler"),
        ("priority", "priority", "RecordingScheduler"),
        ("srpt", "fcfs", "PolicyScheduler"),
    ],
)
def test_the_engine_runs_its_own_policies_and_the_scheduler_ours(
    driver, tmp_path, policy, engines, scheduler
):
    driver.main(arguments(tmp_path, f"--policy={policy}"))
    asked = Engine.last.args
    assert asked.scheduling_policy == engines
    assert asked.scheduler_cls == f"integrations.vllm_scheduler.{scheduler}"
    assert os.environ["HOL_POLICY"] == policy


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--policy=none-such", "--policy: 'none-such' is unknown"),
        ("--policy-args=chunk", "--policy: 'chunk': write name=value"),
        ("--hardware=none-such", "--hardware: no description none-such.yaml"),
        ("--model-config=none-such.json", "none-such.json"),
    ],
)
def test_what_cannot_be_served_is_refused_before_the_engine_starts(driver, tmp_path, capsys, wrong, message):
    assert driver.main(arguments(tmp_path, "--policy=srpt", wrong)) == 2
    assert message in capsys.readouterr().err
    assert Engine.starts == 0
    assert list(tmp_path.iterdir()) == []


def test_priority_is_prompt_length(driver, tmp_path):
    driver.main(arguments(tmp_path, "--policy=priority"))
    prompts = [one["p"] for one in lines(tmp_path)[1:]]
    assert sorted(Engine.last.priorities[-4:]) == sorted(prompts)


def test_a_run_that_is_there_is_not_repeated(driver, tmp_path, capsys):
    driver.main(arguments(tmp_path))
    driver.main(arguments(tmp_path))
    assert Engine.starts == 1
    assert capsys.readouterr().out.endswith("run: is there already\n")


def test_a_run_that_failed_leaves_nothing_behind(driver, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "fails", True)
    with pytest.raises(RuntimeError, match="out of memory"):
        driver.main(arguments(tmp_path))
    assert list(tmp_path.iterdir()) == []
