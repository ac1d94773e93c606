"""The structure of one iteration: rows in order, where all-reduces and KV stand, and the slots of each number."""

from __future__ import annotations

import pytest
from clusters import BLOCK, instance, make_cluster

from inference_serving.shape_builder import build_shape
from inference_serving.trace_shape import DURATION_SLOT

BLOCKS = 2  # of the test model


def specs(folder, *npus_and_kind):
    return make_cluster(folder, [instance(folder, *one) for one in npus_and_kind]).instances


def test_rows_are_embedding_blocks_norm_and_head_numbered_in_order(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    layers = ["embedding", *BLOCK * BLOCKS, "final_layernorm", "lm_head"]
    rows = build_shape(spec).rows
    assert [row.layer for row in rows] == layers
    assert [row.name for row in rows] == [f"{layer}_{number}" for number, layer in enumerate(layers)]


def test_token_ids_come_in_at_the_embedding_and_sampled_ids_leave_at_the_head(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    rows = build_shape(spec).rows
    assert [row.name for row in rows if row.loads_token_ids] == ["embedding_0"]
    assert [row.name for row in rows if row.stores_sampled_ids] == ["lm_head_26"]


def test_one_rank_reduces_nothing(tmp_path):
    (spec,) = specs(tmp_path, (1,))
    assert not any(row.all_reduce for row in build_shape(spec).rows)


@pytest.mark.parametrize("npus", [2, 4])
def test_under_tensor_parallelism_o_proj_and_down_proj_of_every_block_are_reduced(tmp_path, npus):
    (spec,) = specs(tmp_path, (npus,))
    reduced = [row.name for row in build_shape(spec).rows if row.all_reduce]
    assert reduced == ["o_proj_7", "down_proj_12", "o_proj_19", "down_proj_24"]


def test_kv_is_ready_after_the_rope_of_every_block_if_there_is_a_target(tmp_path):
    prefill, decode = specs(tmp_path, (1, "prefill"), (1, "decode"))
    ready = [row.name for row in build_shape(prefill, (decode,)).rows if row.kv_ready]
    assert ready == ["rope_5", "rope_17"]


def test_no_kv_is_ready_without_a_target(tmp_path):
    prefill, _ = specs(tmp_path, (1, "prefill"), (1, "decode"))
    assert not any(row.kv_ready for row in build_shape(prefill).rows)


def test_npus_are_those_of_the_instance_and_then_those_of_each_target(tmp_path):
    prefill, first, second = specs(tmp_path, (2, "prefill"), (1, "decode"), (4, "decode"))
    shape = build_shape(prefill, (first, second))
    assert shape.npus == (0, 1, 2, 3, 4, 5, 6)
    assert [target.first_position for target in shape.targets] == [2, 3]


def test_positions_follow_the_order_of_the_targets_and_not_npu_numbers(tmp_path):
    _, second, prefill = specs(tmp_path, (2, "decode"), (1, "decode"), (1, "prefill"))
    shape = build_shape(prefill, (second,))
    assert shape.npus == (3, 2)
    assert [target.first_position for target in shape.targets] == [1]


def test_targets_are_parts_of_the_ticket_counted_from_one(tmp_path):
    prefill, first, second = specs(tmp_path, (1, "prefill"), (1, "decode"), (1, "decode"))
    shape = build_shape(prefill, (first, second))
    assert [(target.instance.instance_id, target.part) for target in shape.targets] == [(1, 1), (2, 2)]


def test_each_transfer_has_a_size_slot_of_its_own_after_the_three_common_ones(tmp_path):
    prefill, first, second = specs(tmp_path, (2, "prefill"), (1, "decode"), (4, "decode"))
    shape = build_shape(prefill, (first, second))
    slots = [
        target.first_slot + number for target in shape.targets for number in range(len(target.transfers))
    ]
    assert slots == [3, 4, 5, 6, 7, 8]  # two ranks to one, then two ranks to four
    assert shape.size_slots == 9


def test_an_iteration_without_targets_has_only_the_common_sizes(tmp_path):
    (spec,) = specs(tmp_path, (4,))
    assert build_shape(spec).size_slots == 3


def test_every_layer_has_a_duration_slot_of_its_own():
    layers = ("embedding", *BLOCK, "final_layernorm", "lm_head")
    assert sorted(DURATION_SLOT[layer] for layer in layers) == list(range(len(layers)))
