"""A real profile of a tiny model on this CPU, and the model itself; skipped where PyTorch is not installed.

    ./compile.sh --dev --with profile && .venv/bin/python -m pytest tests/llm_profile/profiler

Times on a shared machine are noise, so only their order of magnitude is asserted; docs/latencies.md has the errors
of undisturbed runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fake_measurer import TINY, TINY_MOE  # noqa: E402

from llm_profile.latency import LatencyQuery, open_latency_model  # noqa: E402
from llm_profile.layers import LAYERS, parameters_per_rank  # noqa: E402
from llm_profile.model_config import load_model_config  # noqa: E402
from llm_profile.profiler.attention import Heads, KvBatch  # noqa: E402
from llm_profile.profiler.batch import BatchShape, DecodeKernel  # noqa: E402
from llm_profile.profiler.cli import main  # noqa: E402
from llm_profile.profiler.model import Rank, Weights  # noqa: E402
from llm_profile.profiler.moe import Experts  # noqa: E402

WEIGHTS = Weights(torch.float32, "cpu")
SMALL = ["--max-tokens", "16", "--max-seqs", "2", "--max-context", "32", "--density", "1", "--threads", "1"]
FILES = (
    "bf16/meta.yaml",
    *(f"bf16/tp1/{name}.csv" for name in ("attention", "dense", "per_sequence", "skew")),
    *(f"tp1/{name}.csv" for name in ("attention", "layers")),
)


def config_file(folder: Path, **changes: object) -> str:
    facts = {**TINY.model_dump(), "name": "tiny", "head_dim": 16, **changes}
    (folder / "config.json").write_text(json.dumps(facts))
    return str(folder / "config.json")


def profile(folder: Path, *flags: str, **changes: object) -> int:
    model = config_file(folder, **changes)
    return main(["--model", model, "--hardware", "CARD", "--output", str(folder / "out"), *SMALL, *flags])


def test_a_profile_is_read_by_the_simulator_resumed_and_near_the_truth(tmp_path, capsys):
    assert profile(tmp_path, "--check") == 0
    folder = tmp_path / "out" / "CARD" / "tiny"
    assert {file for file in FILES if not (folder / file).is_file()} == set()
    assert not list((tmp_path / "out").glob(".*"))
    model = load_model_config(tmp_path / "config.json")
    for source in ("tables", "bundle"):
        latency = open_latency_model(LatencyQuery("CARD", model, 1, profile_dir=tmp_path / "out"), source)
        for layer in LAYERS:
            if layer != "attn":
                assert 0 < int(latency.layer_ns(layer, np.array([16]))[0]) < 1e9
    errors = [row.split("|")[4] for row in capsys.readouterr().out.splitlines() if row.endswith("% |")]
    assert np.median([abs(float(error.strip(" %"))) for error in errors]) < 100
    before = (folder / "tp1" / "layers.csv").read_bytes()
    assert profile(tmp_path) == 0
    assert "0 points measured" in capsys.readouterr().out
    assert (folder / "tp1" / "layers.csv").read_bytes() == before


def test_a_killed_profile_goes_on(tmp_path):
    command = [
        sys.executable,
        "-m",
        "llm_profile.profiler",
        "--model",
        config_file(tmp_path),
        "--hardware",
        "CARD",
    ]
    command += ["--output", str(tmp_path / "out"), *SMALL, "--only", "layers"]
    journal = tmp_path / "out" / "CARD" / "tiny" / "profile-tp1-bf16.jsonl"
    running = subprocess.Popen(
        command, cwd=Path(__file__).parents[3], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    until = time.monotonic() + 120
    while not (journal.is_file() and journal.read_bytes().count(b"\n") > 3) and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    points = [line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert len(points) > 3
    assert profile(tmp_path, "--only", "layers") == 0
    assert journal.read_bytes().startswith(b"".join(points))


def test_an_expert_model_gets_its_router_and_experts(tmp_path):
    moe = TINY_MOE.model_dump(include={"model_type", "num_experts", "num_experts_per_tok"})
    assert profile(tmp_path, "--only", "layers", **moe) == 0
    folder = tmp_path / "out" / "CARD" / "tiny"
    assert (folder / "bf16/tp1/moe.csv").read_text().startswith("tokens,activated_experts,time_us\n1,2,")
    assert "\nexpert.w2,16,0,1," in (folder / "tp1/layers.csv").read_text()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize(
    "changes", [{}, {"model_type": "qwen3"}, {"model_type": "qwen2"}, {"mlp_bias": True}]
)
def test_a_rank_stores_the_weights_that_the_simulator_counts(fused, tp_size, changes):
    model = TINY.model_copy(update=changes)
    rank = Rank(model, tp_size, WEIGHTS, blocks=model.num_hidden_layers, fused=fused)
    assert _weights_of(rank) == parameters_per_rank(model, tp_size)


def _weights_of(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, list | tuple):
        return sum(map(_weights_of, value))
    if hasattr(value, "__dict__") and not isinstance(value, Weights | type(TINY)):
        return sum(map(_weights_of, vars(value).values()))
    return 0


@pytest.mark.parametrize("fused", [True, False])
def test_every_layer_of_a_forward_pass_is_stamped_in_order(fused):
    rank = Rank(TINY, 1, WEIGHTS, blocks=1, fused=fused)
    names: list[str] = []
    out = rank.forward(rank.inputs(torch.arange(5), torch.tensor([4])), None, names.append)
    assert out.shape == (1, TINY.vocab_size)
    if not fused:
        assert names == list(LAYERS)
    assert torch.isfinite(out).all()


def heads_of(tokens: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(tokens, n, 8) for n in (4, 2, 2))


def exact(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of one token ``[q heads, dim]`` on ``[kv heads, tokens, dim]``, by its definition."""
    keys, values = keys.repeat_interleave(2, dim=0), values.repeat_interleave(2, dim=0)
    weights = (torch.einsum("hd,hkd->hk", q, keys) / 8**0.5).softmax(dim=-1)
    return torch.einsum("hk,hkd->hd", weights, values).flatten()


@pytest.mark.parametrize("kernel", DecodeKernel)
@pytest.mark.parametrize("decode_kv", [(), (1,), (6, 6), (3, 9, 1)])
@pytest.mark.parametrize("prefill", [(), ((5, 0),), ((4, 7), (2, 0))])
def test_attention_is_exact_for_chunks_on_a_history_and_uneven_decodes(kernel, decode_kv, prefill):
    shape = BatchShape(prefill, decode_kv)
    if not shape.tokens:
        pytest.skip("an empty batch")
    batch = KvBatch(shape, Heads(4, 2, 8), WEIGHTS, blocks=1, kernel=kernel)
    q, k, v = heads_of(shape.tokens)
    out = batch.attend(0, q, k, v)
    prefill_caches, decode_caches = batch._caches[0]
    if kernel == DecodeKernel.PADDED and decode_kv:
        decode_caches = list(zip(*decode_caches[0], strict=True))
    caches = [
        *(cache for (chunk, _), cache in zip(prefill, prefill_caches, strict=True) for _ in range(chunk)),
        *decode_caches,
    ]
    assert out.shape == (shape.tokens, 32)
    for row, (position, cache) in enumerate(zip(shape.positions(), caches, strict=True)):
        keys, values = (part[:, : position + 1] for part in cache)
        torch.testing.assert_close(keys[:, -1], k[row])
        torch.testing.assert_close(out[row], exact(q[row], keys, values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tokens", "activated"), [(1, 2), (16, 2), (16, 8), (3, 5)])
def test_tokens_are_dealt_evenly_to_the_active_experts(tokens, activated):
    experts = Experts(TINY_MOE, 1, WEIGHTS)
    rows = experts.rows_of_experts(tokens, activated)
    counts = [len(mine) for mine in rows]
    assert sum(counts) == 2 * tokens
    assert max(counts) - min(counts) <= 1
    assert len(counts) == activated
    assert torch.isfinite(experts.forward(torch.randn(tokens, 64), rows, lambda _: None)).all()
