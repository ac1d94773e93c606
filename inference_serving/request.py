"""Request and Batch: what moves through the serving layer, and the states it goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference_serving.layer_group import WHOLE_MODEL, LayerGroup
from inference_serving.request_spec import SessionTurn

if TYPE_CHECKING:
    from inference_serving.policies.prefill import PrefillJob
    from inference_serving.tiers.prefix_pool import ChunkKey

Int64Array = NDArray[np.int64]
AttentionWork = tuple[Int64Array, Int64Array, Int64Array]
"""What ``LatencyModel.attention_ns`` asks for: chunks, tokens cached before each of them, KV of the decodes."""


class RequestState(Enum):
    """Where a request is; it only ever moves forward, except RUNNING -> WAITING on preemption."""

    ARRIVING = "arriving"
    WAITING = "waiting"
    RUNNING = "running"
    TRANSFERRING = "transferring"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """One request and its progress; token counts, nanoseconds, KV blocks.

    ``arrival_ns`` of a later turn of a session is not known before it arrives; until then it is its session's.
    ``instance_id`` is where it is now, ``reserved_blocks`` what waits for it at its decode instance.

    ``computed`` counts tokens whose KV exists, ``generated`` the output tokens sampled so far. While the
    request runs, both live in the scheduler's :class:`~inference_serving.running_table.RunningTable` and
    are written back here when it leaves.
    """

    request_id: int
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    request_class: str = "short"
    state: RequestState = RequestState.ARRIVING
    computed: int = 0
    generated: int = 0
    blocks: int = 0
    enqueue_order: int = 0
    preemptions: int = 0
    first_scheduled_ns: int = -1
    end_ns: int = -1
    instance_id: int = -1
    prefill_instance_id: int = -1
    decode_instance_id: int = -1
    reserved_blocks: int = 0
    kv_sent_tokens: int = 0
    pending_transfers: int = 0
    job: PrefillJob | None = None
    """What the prefill policy predicted of it and did with it; None where there is no such policy."""
    token_ids: Sequence[int] = ()
    """Ids of the prompt and of the output as far as known; only prefix caching looks at them."""
    block_hashes: list[bytes] = field(default_factory=list)
    hashed_block_size: int = 0
    known_blocks: list[int] = field(default_factory=list)
    """Places of its blocks whose content its instance's pool knows under this request's use."""
    remembered_blocks: int = 0
    prefix_hit_tokens: int = 0
    storage_hit_tokens: int = 0
    """Prompt tokens found in the second tier of the prefix cache."""
    chunk_keys: list[ChunkKey] = field(default_factory=list)
    written_chunks: int = 0
    """Chunks from the first on that the second tier has been given (or had)."""
    swapped_tokens: int = 0
    """Tokens whose KV is kept elsewhere since the request gave way to another."""
    token_time_parts: list[Int64Array] = field(default_factory=list)
    session: SessionTurn | None = None
    client_wait_ns: int = 0
    """Time that its client held it back before ``arrival_ns`` because too many others were under way."""

    @property
    def first_instance_id(self) -> int:
        """The instance that computed the prompt."""
        return self.prefill_instance_id if self.prefill_instance_id >= 0 else self.instance_id

    @property
    def num_tokens(self) -> int:
        """Tokens known so far: the prompt and what has been generated."""
        return self.prompt_tokens + self.generated

    @property
    def total_tokens(self) -> int:
        """Tokens at the end of the request's life."""
        return self.prompt_tokens + self.output_tokens

    def token_times_ns(self) -> Int64Array:
        """Time at which each output token came out, shape ``[generated]``."""
        if not self.token_time_parts:
            return np.empty(0, dtype=np.int64)
        if len(self.token_time_parts) > 1:
            self.token_time_parts = [np.concatenate(self.token_time_parts)]
        return self.token_time_parts[0]


@dataclass(slots=True)  # made in every iteration; frozen, it would take twice as long
class Batch:
    """One iteration's work, or a layer group of it: tokens granted to each running request.

    The arrays have one entry per row of the scheduler's running table, in running order; a grant of 0
    means that the row sits this iteration out. ``sequences`` counts the rows that do not, ``prompt_tokens``
    the tokens of rows that are still in their prompt. ``layer_group`` says which blocks run; all numbers are
    those of the whole iteration in each of its groups, and are done with the last. ``kv_groups`` has the channels
    of each row's KV where attention is offloaded, see :class:`~inference_serving.pim.kv_channels.KvChannels`.
    """

    grants: Int64Array
    context: Int64Array
    total_tokens: int
    prompt_tokens: int
    sequences: int
    layer_group: LayerGroup = WHOLE_MODEL
    kv_groups: Int64Array | None = None

    @property
    def logit_rows(self) -> int:
        """Positions from which a token is sampled, so that the head runs on them: one for each sequence."""
        return self.sequences

    @property
    def draft_steps(self) -> int:
        """Steps of drafting that come before it; see :mod:`inference_serving.speculation.scheduler`."""
        return 0

    def attention(self) -> AttentionWork:
        """What its attention is priced by."""
        return *self.prefill_chunks(), self.decode_kv()

    def prefill_chunks(self) -> tuple[Int64Array, Int64Array]:
        """Chunk lengths and the tokens already cached before them, of the rows that run a chunk."""
        if self.total_tokens == self.sequences:  # one token each
            return _NONE, _NONE
        chunks = self.grants > 1
        return self.grants[chunks], self.context[chunks]

    def decode_kv(self) -> Int64Array:
        """KV length, new token included, of each row that runs a single token."""
        if self.total_tokens == self.sequences == len(self.grants):
            return self.context + _ONE
        kv: Int64Array = self.context[self.grants == 1] + 1
        return kv


_NONE: Int64Array = np.empty(0, dtype=np.int64)
_ONE = np.array(1, dtype=np.int64)  # numpy takes three times as long to add a Python int
