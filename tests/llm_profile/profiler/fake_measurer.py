"""A stand-in for the device: every layer's time is a closed form, and it can be interrupted."""

from llm_profile.model_config import ModelConfig
from llm_profile.profiler.plan import Kind, Point
from llm_profile.profiler.samples import Stats, Times

TINY = ModelConfig(
    name="org/tiny",
    model_type="llama",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=256,
    max_position_embeddings=512,
)
TINY_MOE = TINY.model_copy(
    update={
        "name": "org/tiny-moe",
        "model_type": "mixtral",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 128,
    }
)
IDENTITY = {
    "hardware": "CARD",
    "device": "a card",
    "torch": "9",
    "dtype": "bfloat16",
    "threads": 1,
    "clock": "wall",
    "blocks": 2,
    "decode_kernel": "loop",
}
ALPHA = 0.25
SPLIT = (
    "embedding",
    "input_layernorm",
    "q_proj",
    "k_proj",
    "v_proj",
    "rope",
    "o_proj",
    "post_layernorm",
    "gate_proj",
    "up_proj",
    "act_fn",
    "down_proj",
    "final_layernorm",
)
FUSED = (
    "embedding",
    "layernorm",
    "qkv_proj",
    "rotary_emb",
    "o_proj",
    "gate_up_proj",
    "act_fn",
    "down_proj",
    "final_layernorm",
)
MLP = ("gate_proj", "up_proj", "act_fn", "down_proj", "gate_up_proj")


def layer_ns(name: str, n: int) -> float:
    """Some microseconds, and 10 ns a token, by the length of the name."""
    return 1000.0 * len(name) + 10.0 * n


def attention_ns(chunk: int, context: int, requests: int, kv: float) -> float:
    """Linear in the (query, key) pairs of the chunk and in the KV of the decodes."""
    return 2000.0 + 3.0 * chunk + 0.5 * chunk * context + 100.0 * requests + 7.0 * requests * kv


class FakeMeasurer:
    """Measures in no time; after ``until`` points the user presses Ctrl-C."""

    def __init__(self, model: ModelConfig = TINY, until: int | None = None) -> None:
        self.model = model
        self.until = until
        self.measured: list[Point] = []

    def measure(self, point: Point) -> Times:
        if len(self.measured) == self.until:
            raise KeyboardInterrupt
        self.measured.append(point)
        return {name: Stats.of([ns - 50, ns, ns + 100]) for name, ns in self._times(point).items()}

    def _times(self, point: Point) -> dict[str, float]:
        key = point.key
        match point.kind:
            case Kind.SPLIT_LAYERS | Kind.FUSED_LAYERS:
                names = SPLIT if point.kind == Kind.SPLIT_LAYERS else FUSED
                names = tuple(name for name in names if not (self.model.is_moe and name in MLP))
                return {name: layer_ns(name, key[0]) for name in names}
            case Kind.SEQUENCES:
                return {name: layer_ns(name, key[0]) for name in ("lm_head", "sampler")}
            case Kind.ATTENTION:
                return {"attn": attention_ns(*key)}
            case Kind.SKEW:
                chunk, context, requests, many, short, long = key
                mean_kv = (many * long + (requests - many) * short) / requests
                mean = attention_ns(chunk, context, requests, mean_kv)
                longest = attention_ns(chunk, context, requests, long)
                return {"mean": mean, "max": longest, "skew": mean + ALPHA * (longest - mean)}
            case Kind.EXPERT:
                return {
                    n: layer_ns(n, key[0]) for n in ("gate", "expert.w1", "expert.w3", "act_fn", "expert.w2")
                }
            case _:
                return {"moe": 1000.0 * key[1] + 10.0 * key[0]}
