"""Measured against simulated iterations, with a stand-in for the device."""

import numpy as np
import pytest
from fake_measurer import TINY

from llm_profile.layers import BLOCK_LAYERS
from llm_profile.profiler.batch import BatchShape
from llm_profile.profiler.check import check_batches, check_text, compare, drift_of, simulated_ns
from llm_profile.profiler.plan import Grid, Kind, Point
from llm_profile.profiler.samples import Stats

GRID = Grid(max_tokens=64, max_seqs=8, max_context=128, max_batch_kv=600)


class Latency:
    """A dense layer takes 10 ns a token, attention 1 ns a key, an iteration 5 ns more."""

    name = "fake"
    step_overhead_ns = 5

    def layer_ns(self, layer, tokens):
        return np.asarray(tokens) * (1000 if layer == "lm_head" else 10)

    def attention_ns(self, prefill_q, prefill_context, decode_kv):
        return int(prefill_q.sum() + prefill_context.sum() + decode_kv.sum())


def test_an_iteration_is_its_blocks_and_what_lies_around_them():
    shape = BatchShape(prefill=((16, 4),), decode_kv=(7, 9))
    block = 18 * 10 * (len(BLOCK_LAYERS) - 1) + 20 + 16
    assert simulated_ns(Latency(), TINY, shape) == 2 * block + 2 * 18 * 10 + 3 * 1000 + 5


def test_a_batch_knows_its_tokens_positions_and_last_rows():
    shape = BatchShape(prefill=((3, 4), (1, 0)), decode_kv=(9,))
    assert (shape.tokens, shape.sequences) == (5, 3)
    assert shape.positions() == [4, 5, 6, 0, 8]
    assert shape.last_rows() == [2, 3, 4]


@pytest.mark.parametrize("grid", [GRID, Grid(1, 1, 1, 2), Grid(4, 2, 4, 8)])
def test_batches_to_check_stay_within_what_was_measured(grid):
    batches = dict(check_batches(grid))
    assert len(batches) > 3
    for shape in batches.values():
        assert shape.tokens <= max(grid.max_tokens, grid.max_seqs + 1, 2)
        assert max(shape.decode_kv, default=1) <= grid.max_context
        assert shape.sequences <= grid.max_seqs + 1


def test_errors_are_of_the_median_of_the_rounds():
    rounds = {}

    def measured_ns(shape):
        rounds[shape] = rounds.get(shape, 0) + 1
        disturbed = 10 if rounds[shape] == 2 else 1
        return simulated_ns(Latency(), TINY, shape) / 0.9 * disturbed

    drifts = iter([1.0, 7.0, 1.1])
    check = compare(measured_ns, lambda: next(drifts), GRID, Latency(), TINY)
    assert [one.error for one in check.comparisons] == pytest.approx([-0.1] * len(check.comparisons))
    assert check.drift == 1.1
    assert check_text("fake", check).endswith(
        "median error 10.0%, largest 10.0%; layers measured again meanwhile took 1.100 times as long as in the tables"
    )


def test_drift_is_how_much_longer_layers_take_now():
    def times(ns):
        return {"q_proj": Stats.of([ns]), "o_proj": Stats.of([3 * ns])}

    measured = {Point(Kind.SPLIT_LAYERS, (n,)): times(100.0 * n) for n in (1, 2, 4, 8, 16)}
    measured[Point(Kind.SEQUENCES, (1,))] = times(1.0)
    again = []

    def measure(point):
        again.append(point)
        return times(125.0 * point.key[0])

    assert drift_of(measure, measured, Kind.SPLIT_LAYERS) == pytest.approx(1.25)
    assert [point.key for point in again] == [(1,), (4,), (16,)]
