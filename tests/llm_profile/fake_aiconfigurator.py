"""A stand-in for the parts of ``aiconfigurator_core`` that are used, with rows from closed forms.

Matrices are measured for 1 to 256 tokens; (512, 256) is not among them. A call is counted.
"""

import enum
import json
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

from llm_profile.model_config import ModelConfig
from llm_profile.protocol import LatencyQuery

VERSION = "9.8.7"
BANDWIDTH_GBPS = 1000.0
TOKENS = (1, 16, 64, 256)
MATRICES = ((512, 256), (256, 256), (1024, 256), (2048, 512))
HEADS = (2, 4, 8)
PROMPTS = (1, 64, 128, 1024)
BATCHES = (1, 2, 8)
LENGTHS = (2, 128, 1024, 262144)

MODEL = ModelConfig(
    name="four-heads",
    model_type="llama",
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    vocab_size=4096,
    max_position_embeddings=512,
)
QUERY = LatencyQuery("H100", MODEL, 1)


def gemm_ns(m: int, n: int, k: int) -> float:
    return 5000 + m * n * k / 1000


def prompt_ns(n: int, heads: int = 4) -> float:
    return 10_000 + 2 * heads * n + n * n / 64


def decode_ns(requests: int, kv: int, heads: int = 4) -> float:
    return 8000 + 100 * requests + heads * requests * kv


def experts_ns(batch: int, ranks: int) -> float:
    """Experts of one of ``ranks`` when ``batch`` tokens go to two of four experts each."""
    return 9000 + 40 * batch / ranks


class GEMMQuantMode(enum.Enum):
    bfloat16 = 0
    fp8 = 1


class KVCacheQuantMode(enum.Enum):
    bfloat16 = 0
    fp8 = 1


class MoEQuantMode(enum.Enum):
    bfloat16 = 0
    fp8 = 1


class FMHAQuantMode(enum.Enum):
    bfloat16 = 0


@dataclass
class FakePackage:
    """Installs itself in ``sys.modules``; ``opened`` lists the systems that were asked for."""

    opened: list[str] = field(default_factory=list)

    def modules(self) -> dict[str, ModuleType]:
        names = ("", ".sdk", ".sdk.common", ".sdk.perf_database", ".sdk.engine_table_view", ".sdk.engine")
        made = {
            f"aiconfigurator_core{name}": ModuleType(f"aiconfigurator_core{name}")
            for name in (*names, ".sdk.operations")
        }
        common = made["aiconfigurator_core.sdk.common"]
        common.GEMMQuantMode, common.KVCacheQuantMode = GEMMQuantMode, KVCacheQuantMode
        common.FMHAQuantMode, common.MoEQuantMode = FMHAQuantMode, MoEQuantMode
        made["aiconfigurator_core.sdk.perf_database"].get_database = self.get_database
        made["aiconfigurator_core.sdk.engine_table_view"].fetch_table_view = fetch_table_view
        made["aiconfigurator_core.sdk.operations"].GEMM = lambda _name, _scale, n, k, _mode: (n, k)
        engine = made["aiconfigurator_core.sdk.engine"]
        engine.build_ops_json = json.dumps
        engine.EngineHandle = SimpleNamespace(for_database=lambda _database: FakeEngine())
        return made

    def get_database(self, system: str, backend: str, version: str) -> SimpleNamespace:
        assert (backend, version) == ("vllm", "current")
        self.opened.append(system)
        return SimpleNamespace(version="0.99", system_spec={"gpu": {"mem_bw": BANDWIDTH_GBPS * 1e9}})


class FakeEngine:
    def evaluate_ops_json(self, text: str, **asked: int) -> list[tuple[str, float, float, str]]:
        assert asked == {"is_context": True, "batch_size": 1, "s": asked["x"], "prefix": 0, "x": asked["x"]}
        ((n, k),) = json.loads(text)
        return [("gemm", gemm_ns(asked["x"], n, k) / 1e6, 0.0, "silicon")]


def fetch_table_view(_database: object, attribute: str) -> dict:
    mode = GEMMQuantMode.bfloat16
    if attribute == "_gemm_data":
        return {mode: {m: _matrices(m) for m in TOKENS}}
    if attribute == "_context_attention_data":
        rows = {h: {n: {1: row(prompt_ns(n, h)), 2: row(1)} for n in PROMPTS} for h in HEADS}
        return {FMHAQuantMode.bfloat16: {KVCacheQuantMode.bfloat16: {2: {64: {0: rows}}}}}
    if attribute == "_moe_data":
        by_ranks = {ranks: {n: row(experts_ns(n, ranks)) for n in TOKENS} for ranks in (1, 2)}
        shape = {2: {4: {256: {512: {1: by_ranks}}}}}
        return {MoEQuantMode.bfloat16: {"balanced": shape, "power_law_1.2": {}}}
    assert attribute == "_generation_attention_data"
    rows = {h: {b: {kv: row(decode_ns(b, kv, h)) for kv in LENGTHS} for b in BATCHES} for h in HEADS}
    return {KVCacheQuantMode.bfloat16: {2: {64: {0: rows}}}}


def _matrices(m: int) -> dict[int, dict[int, dict[str, float]]]:
    table: dict[int, dict[int, dict[str, float]]] = {}
    for n, k in MATRICES:
        table.setdefault(n, {})[k] = row(gemm_ns(m, n, k))
    return table


def row(ns: float) -> dict[str, float]:
    return {"latency": ns / 1e6, "power": 0.0, "energy": 0.0}


def imported() -> bool:
    return any(name.startswith("aiconfigurator_core") for name in sys.modules)
