"""No source answers beyond its data without saying so."""

import pytest
from fake_aiconfigurator import MODEL
from synthetic_bundles import write_bundle
from synthetic_tables import tokens

from llm_profile.latency import LatencyQuery, Source, open_latency_model

NONE = tokens()
INSIDE, BEYOND = Source.INTERPOLATED, Source.EXTRAPOLATED


@pytest.fixture
def opened(llama, tables, fake_package):
    """Open each source with small, known data."""

    def of(source: str):
        if source == "silicon":
            return open_latency_model(LatencyQuery("H100", MODEL, 1), source)
        folder = tables("A6000")
        write_bundle(folder / "A6000" / llama.name / "bf16" / "tp1")
        return open_latency_model(LatencyQuery("A6000", llama, 1, profile_dir=folder), source)

    return of


@pytest.mark.parametrize(
    ("source", "largest"), [("tables", 64), ("bundle", 64), ("silicon", 256), ("calibrated", 2048)]
)
def test_a_layer_of_more_tokens_than_measured_is_extrapolated(opened, source, largest):
    model = opened(source)
    assert model.source("q_proj", largest) in (Source.MEASURED, INSIDE)
    assert model.source("q_proj", largest + 1) is BEYOND


@pytest.mark.parametrize(
    ("source", "chunk", "context", "expected"),
    [
        ("tables", 32, 1024, INSIDE),
        ("tables", 48, 1024, INSIDE),
        ("tables", 31, 0, BEYOND),
        ("tables", 129, 0, BEYOND),
        ("tables", 48, 1025, BEYOND),
        ("bundle", 16, 2048, INSIDE),
        ("bundle", 100, 2048, INSIDE),
        ("bundle", 15, 0, BEYOND),
        ("bundle", 257, 0, BEYOND),
        ("bundle", 16, 2049, BEYOND),
        ("silicon", 24, 1000, INSIDE),
        ("silicon", 24, 1001, BEYOND),
        ("silicon", 1025, 0, BEYOND),
        ("calibrated", 1024, 1024, INSIDE),
        ("calibrated", 1024, 1025, BEYOND),
        ("calibrated", 2049, 0, BEYOND),
    ],
)
def test_a_chunk_or_context_longer_than_measured_is_extrapolated(opened, source, chunk, context, expected):
    model = opened(source)
    assert model.attention_source(tokens(chunk), tokens(context), NONE) is expected
    usual = (tokens(64, chunk), tokens(0, context), NONE)  # one part beyond the data is enough
    assert model.attention_source(*usual) is expected


@pytest.mark.parametrize(
    ("source", "requests", "kv", "expected"),
    [
        ("tables", 8, 4096, INSIDE),
        ("tables", 5, 4096, INSIDE),
        ("tables", 5, 4097, BEYOND),
        ("tables", 9, 300, BEYOND),
        ("bundle", 8, 4096, INSIDE),
        ("bundle", 5, 16, INSIDE),
        ("bundle", 5, 15, BEYOND),
        ("bundle", 5, 4097, BEYOND),
        ("bundle", 9, 300, BEYOND),
        ("silicon", 8, 1024, INSIDE),
        ("silicon", 8, 262145, BEYOND),
        ("silicon", 1000, 16, BEYOND),
        ("calibrated", 256, 256, INSIDE),
        ("calibrated", 256, 257, BEYOND),
        ("calibrated", 257, 16, BEYOND),
    ],
)
def test_a_decode_batch_larger_than_measured_is_extrapolated(opened, source, requests, kv, expected):
    model = opened(source)
    decodes = tokens(*[kv] * requests)
    assert model.attention_source(NONE, NONE, decodes) is expected
    assert model.attention_source(tokens(64), tokens(0), decodes) is expected


def test_the_longest_decode_of_a_bundle_counts_not_the_mean(opened):
    model = opened("bundle")
    assert model.attention_source(NONE, NONE, tokens(16, 4096)) is INSIDE
    assert model.attention_source(NONE, NONE, tokens(16, 4097)) is BEYOND


def test_generic_coefficients_are_estimated_everywhere(llama, tmp_path, monkeypatch):
    (tmp_path / "llm_profile" / "hardware").mkdir(parents=True)
    (tmp_path / "llm_profile" / "hardware" / "MINE.yaml").write_text(
        "{name: MINE, source: x, memory: {bandwidth_gbps: 1000, size_gb: 24}, peak_tflops: {fp16: 100}}"
    )
    monkeypatch.chdir(tmp_path)
    model = open_latency_model(LatencyQuery("MINE", llama, 1))
    assert model.source("q_proj", 1) is Source.ESTIMATED
    assert model.attention_source(tokens(9), tokens(9), tokens(9)) is Source.ESTIMATED
