"""Synthetic bundles in the newer layout, from closed forms (microseconds in the files)."""

from pathlib import Path

DENSE = (
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
TOKENS = (1, 2, 16, 64)
SEQUENCES = (1, 8, 32)
CHUNKS, CONTEXTS = (16, 64, 256), (0, 512, 2048)
REQUESTS, KVS = (1, 2, 8), (16, 512, 4096)
SKEW_HEADER = "pc,n_label,skew_rate_label,kv_big_label,kp_label,alpha,n_samples"


def dense_us(layer: str, tokens: int) -> float:
    """Layer number i of DENSE takes i + 1 us, and a tenth of that a token."""
    return (DENSE.index(layer) + 1) * (1 + tokens / 10)


def lm_head_us(sequences: int) -> float:
    return 700 + 2 * sequences


def sampler_us(sequences: int) -> float:
    return 25 + sequences / 2


def prefill_us(chunk: int, context: int) -> float:
    return 5 + chunk * (context + chunk / 2) / 1000


def decode_us(requests: int, kv: float) -> float:
    return 5 + requests + requests * kv / 250


def mixed_us(chunk: int, context: int, requests: int, kv: float) -> float:
    """One launch, and a prefill that slows every decode down by a half."""
    return prefill_us(chunk, context) + 1.5 * (decode_us(requests, kv) - 5)


def attention_rows() -> list[tuple[int, int, int, int, float]]:
    prefills = [(c, h) for c in CHUNKS for h in CONTEXTS]
    decodes = [(n, kv) for n in REQUESTS for kv in KVS]
    return [
        *((0, 0, n, kv, decode_us(n, kv)) for n, kv in decodes),
        *((c, h, 0, 0, prefill_us(c, h)) for c, h in prefills),
        *((c, h, n, kv, mixed_us(c, h, n, kv)) for c, h in prefills for n, kv in decodes),
    ]


def write_csv(file: Path, header: str, rows: list[tuple[object, ...]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(",".join(f"{c:.9g}" if isinstance(c, float) else str(c) for c in row) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def write_bundle(folder: Path, dense: tuple[str, ...] = DENSE) -> Path:
    """Write a bundle without skew table and meta.yaml into ``folder`` (``.../{variant}/tp{N}``)."""
    rows = [(layer, n, dense_us(layer, n)) for layer in dense for n in TOKENS]
    write_csv(folder / "dense.csv", "layer,tokens,time_us", rows)
    sampling = [("lm_head", n, lm_head_us(n)) for n in SEQUENCES]
    sampling += [("sampler", n, sampler_us(n)) for n in SEQUENCES]
    write_csv(folder / "per_sequence.csv", "layer,sequences,time_us", sampling)
    write_csv(
        folder / "attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", attention_rows()
    )
    return folder
