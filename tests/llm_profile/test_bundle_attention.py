import numpy as np
import pytest
from synthetic_bundles import (
    SKEW_HEADER,
    attention_rows,
    decode_us,
    mixed_us,
    prefill_us,
    write_csv,
)
from synthetic_tables import tokens

from llm_profile.bundle_skew import read_skew
from llm_profile.latency import LatencyQuery, open_latency_model

NONE = tokens()
HEADER = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
LAUNCH_US = min(prefill_us(16, 0), decode_us(1, 16))


def attention(llama, bundle, **options):
    query = LatencyQuery("CARD", llama, 1, profile_dir=bundle.parents[4], **options)
    return open_latency_model(query, "bundle").attention_ns


@pytest.fixture
def ns(llama, bundle):
    return attention(llama, bundle)


def us(value: float) -> int:
    return round(value * 1000)


@pytest.mark.parametrize(("n", "kv"), [(1, 16), (2, 512), (4, 300), (8, 4000), (3, 77), (8, 9000), (16, 512)])
def test_decode_is_linear_in_the_sum_of_kv(ns, n, kv):
    assert ns(NONE, NONE, np.full(n, kv)) == pytest.approx(us(decode_us(n, kv)), abs=1)


@pytest.mark.parametrize(("chunk", "context"), [(16, 0), (64, 512), (256, 2048), (64, 300), (64, 5000)])
def test_a_prefill_on_its_history(ns, chunk, context):
    assert ns(tokens(chunk), tokens(context), NONE) == us(prefill_us(chunk, context))


def test_chunks_lie_on_a_straight_line_between_measured_ones(ns):
    halfway = (prefill_us(64, 512) + prefill_us(256, 512)) / 2
    assert ns(tokens(160), tokens(512), NONE) == us(halfway)


def test_a_chunk_beyond_the_largest_grows_with_its_pairs(ns):
    pairs = 1024 * (512 + 512) - 256 * (512 + 128)
    of_a_pair = prefill_us(256, 2048) / (256 * (2048 + 128))
    expected = prefill_us(256, 512) + pairs * of_a_pair
    assert ns(tokens(1024), tokens(512), NONE) == us(expected)
    beside = expected - prefill_us(256, 512) + mixed_us(256, 512, 2, 512)
    assert ns(tokens(1024), tokens(512), tokens(512, 512)) == us(beside)


@pytest.mark.parametrize(
    ("chunk", "context", "n", "kv"),
    [(16, 0, 1, 16), (64, 512, 8, 4096), (64, 1000, 4, 300), (256, 512, 2, 99)],
)
def test_a_mixed_batch_is_interpolated_between_measured_ones(ns, chunk, context, n, kv):
    measured = ns(tokens(chunk), tokens(context), np.full(n, kv))
    assert measured == pytest.approx(us(mixed_us(chunk, context, n, kv)), abs=1)


def test_every_further_prefill_is_priced_on_its_own(ns):
    q, context = tokens(64, 256, 16), tokens(2048, 0, 0)
    main, others = prefill_us(64, 2048), [prefill_us(256, 0), prefill_us(16, 0)]
    alone = main + sum(others) - 2 * LAUNCH_US
    assert ns(q, context, NONE) == us(alone)
    assert ns(q, context, tokens(512, 512)) == us(alone - main + mixed_us(64, 2048, 2, 512))
    assert ns(q, context, NONE) != ns(tokens(336), tokens(2048), NONE)
    assert ns(NONE, NONE, NONE) == 0


def test_without_mixed_rows_a_mixed_batch_is_the_sum_of_its_parts(llama, bundle):
    pure = [row for row in attention_rows() if 0 in (row[0], row[2])]
    write_csv(bundle / "attention.csv", HEADER, pure)
    parts = prefill_us(64, 512) + decode_us(2, 512) - LAUNCH_US
    assert attention(llama, bundle)(tokens(64), tokens(512), tokens(512, 512)) == us(parts)


def test_grids_that_differ_by_chunk_are_filled_by_what_decodes_add(llama, bundle):
    """Chunk 64 is measured with KV 4096 only: its decodes of KV 16 cost what they do beside other chunks."""
    rows = [row for row in attention_rows() if not (row[0] == 64 and row[2] and row[3] != 4096)]
    write_csv(bundle / "attention.csv", HEADER, rows)
    ns = attention(llama, bundle)
    for kv in (16, 512, 4096):
        assert ns(tokens(64), tokens(512), np.full(8, kv)) == us(mixed_us(64, 512, 8, kv))


def test_uneven_decodes_without_a_skew_table_take_the_time_of_their_mean(ns):
    uneven = tokens(100, 300, 500, 700)
    assert ns(NONE, NONE, uneven) == ns(NONE, NONE, tokens(400, 400, 400, 400))
    assert ns(tokens(64), tokens(0), uneven) == ns(tokens(64), tokens(0), np.full(4, 400))


def test_a_batch_takes_at_least_its_longest_request_alone(llama, bundle):
    rows = [(*key, 10.0 if key[2] > 1 and not key[0] else time) for *key, time in attention_rows()]
    write_csv(bundle / "attention.csv", HEADER, rows)
    assert attention(llama, bundle)(NONE, NONE, tokens(4096, 16)) == us(decode_us(1, 4096))


def test_uneven_decodes_lie_between_the_mean_and_the_longest(llama, bundle):
    rows = [
        (0, "n<=4", "sr<=40%", "kvB<=1k", "kp=0", 0.25, 1),
        (0, "n<=4", "sr>70%", "kvB<=1k", "kp=0", 0.5, 1),
        (64, "n<=4", "sr<=40%", "kvB<=1k", "kp=0", 0.75, 1),
        (64, "n<=4", "sr<=40%", "kvB<=1k", "kp<=512", 1.0, 1),
    ]
    write_csv(bundle / "skew_fit.csv", SKEW_HEADER, rows)
    ns = attention(llama, bundle)
    uneven = tokens(100, 100, 100, 500)  # mean 200: a quarter of the way from the shortest to the longest
    even, longest = decode_us(4, 200), decode_us(4, 500)
    assert ns(NONE, NONE, uneven) == us(even + 0.25 * (longest - even))
    crowded = tokens(100, 500, 500, 500)
    even = decode_us(4, 400)
    assert ns(NONE, NONE, crowded) == us(even + 0.5 * (longest - even))
    for context, alpha in ((0, 0.75), (512, 1.0)):
        even, longest = mixed_us(64, context, 4, 200), mixed_us(64, context, 4, 500)
        expected = us(even + alpha * (longest - even))
        assert ns(tokens(64), tokens(context), uneven) == pytest.approx(expected, abs=1)


def test_buckets_without_samples_take_the_nearest(tmp_path):
    rows = [
        (0, "n<=2", "sr<=40%", "kvB<=1k", "kp=0", 0.1, 1),
        (0, "n<=8", "sr<=40%", "kvB<=1k", "kp=0", 0.2, 1),
        (16, "n<=2", "sr<=40%", "kvB<=1k", "kp=0", 0.3, 1),
        (64, "n>8", "sr<=40%", "kvB>1k", "kp<=2k", 0.4, 1),
    ]
    table = read_skew(write_csv(tmp_path / "skew_fit.csv", SKEW_HEADER, rows))

    def alpha(chunk, context, requests, longest):
        return table.alpha(chunk, context, requests, 0, longest / 4, longest)

    assert alpha(0, 0, 2, 900) == 0.1
    assert alpha(0, 0, 3, 900) == 0.2
    assert alpha(0, 0, 500, 9000) == 0.2
    assert alpha(1, 0, 2, 900) == 0.3  # a small chunk is a prefill all the same
    assert alpha(30, 0, 2, 900) == 0.3
    assert alpha(50, 9999, 2, 900) == 0.4
    assert alpha(5000, 0, 99, 9000) == 0.4


def test_nothing_is_cheaper_than_reading_the_kv(llama, bundle):
    """8 KV heads of 128 elements, K and V, 2 bytes: 4096 bytes a token, 40.96 us at 0.1 bytes a ns."""
    ns = attention(llama, bundle, mem_bw_gbps=100)
    assert ns(tokens(16), tokens(2032), NONE) == round(40.96 * 2048)
    assert ns(tokens(16), tokens(2032), tokens(4000, 4000)) == round(40.96 * (2048 + 8000))
    assert ns(NONE, NONE, tokens(4000, 4000)) == round(40.96 * 8000)
