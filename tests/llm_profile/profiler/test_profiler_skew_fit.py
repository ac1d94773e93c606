"""``alpha`` of uneven batches, per bucket."""

import pytest

from llm_profile.profiler.skew_fit import Bucket, SkewSample, fit_buckets


def sample(alpha, chunk=0, spread=100.0, requests=8, context=0, long_kv=2048):
    mean = 1000.0
    return SkewSample(chunk, context, requests, 2, 128, long_kv, mean, mean + spread, mean + alpha * spread)


def test_labels_are_the_published_ones():
    (bucket,) = fit_buckets([sample(0.5, chunk=16, context=700)])
    assert bucket == Bucket(("16", "n<=8", "sr<=40%", "kvB<=4k", "kp<=1k"), pytest.approx(0.5), 1)


def test_sizes_beyond_the_last_limit_have_a_bucket_too():
    (bucket,) = fit_buckets([sample(0.5, requests=300, context=9000, long_kv=20000)])
    assert bucket.labels == ("0", "n>256", "sr<=5%", "kvB>16k", "kp>8k")


def test_samples_of_a_bucket_count_by_the_square_of_their_spread():
    (bucket,) = fit_buckets([sample(0.0, spread=100), sample(0.5, spread=300)])
    assert bucket.alpha == pytest.approx(0.5 * 9 / 10)
    assert bucket.samples == 2


@pytest.mark.parametrize(("alpha", "fitted"), [(-0.3, 0.0), (1.7, 1.0)])
def test_a_batch_is_neither_cheaper_than_its_mean_nor_dearer_than_its_longest(alpha, fitted):
    assert fit_buckets([sample(alpha)])[0].alpha == fitted


def test_batches_too_even_to_tell_are_left_out():
    assert sample(0.5, spread=10).alpha is None
    assert fit_buckets([sample(0.5, spread=10)]) == []
