"""Prefill/decode disaggregation: reserving KV at the decode side, and following the KV on its way.

A request is admitted on a prefill instance once its decode instance has reserved blocks for the whole
prompt. Every iteration sends the KV of the tokens it computes, layer by layer; a layer group sends that of its
layers, and tokens count as sent with the last group. The request goes on at the
decode side when its first token is out and all its KV has landed; until then it holds blocks on both.
"""

from __future__ import annotations

from collections.abc import Mapping

from inference_serving.instance import Instance
from inference_serving.request import Batch, Request, RequestState


class KvMover:
    """Keeps the books of requests between a prefill and a decode instance."""

    def __init__(self, instances: Mapping[int, Instance]) -> None:
        self._instances = instances
        self._on_the_way: dict[tuple[int, int], list[Request]] = {}

    def may_admit(self, request: Request) -> bool:
        """Reserve the prompt's blocks at the decode side, once; False if there is no room now.

        Nothing new is reserved while the decode instance has preempted requests to bring back: they
        come first.
        """
        if request.output_tokens == 1 or request.reserved_blocks:
            return True
        if not self.would_admit(request):
            return False
        decode = self._instances[request.decode_instance_id]
        request.reserved_blocks = decode.kv_cache.blocks_for(request.prompt_tokens)
        decode.kv_cache.take(request.reserved_blocks)
        return True

    def would_admit(self, request: Request) -> bool:
        """Whether :meth:`may_admit` would say yes now; reserves nothing."""
        if request.output_tokens == 1 or request.reserved_blocks:
            return True
        decode = self._instances[request.decode_instance_id]
        blocks = decode.kv_cache.blocks_for(request.prompt_tokens)
        return not decode.scheduler.starved and blocks <= decode.kv_cache.free_blocks

    def tokens_to_send(self, instance: Instance, batch: Batch) -> dict[int, list[tuple[Request, int]]]:
        """Requests of a prefill batch with the tokens whose KV this iteration sends, by decode instance.

        After a preemption, tokens whose KV has been sent before are not sent again; those of a chunk that was
        given up between two layer groups are. A row without a grant sends nothing: its chunk may be paused.
        """
        outgoing: dict[int, list[tuple[Request, int]]] = {}
        computed = ((batch.context + batch.grants) * (batch.grants > 0)).tolist()
        for request, tokens in zip(instance.scheduler.running, computed, strict=True):
            new = tokens - request.kv_sent_tokens
            if new > 0 and request.output_tokens > 1:
                outgoing.setdefault(request.decode_instance_id, []).append((request, new))
        return outgoing

    def sent(
        self, ticket: int, outgoing: Mapping[int, list[tuple[Request, int]]], *, all_layers: bool
    ) -> None:
        """Note that a ticket carries KV; its parts 1, 2, ... are the targets in ascending order.

        ``all_layers`` says that with it the KV of all layers is sent: the batch is whole, or its last layer group.
        """
        for part, target in enumerate(sorted(outgoing), start=1):
            for request, tokens in outgoing[target]:
                if all_layers:
                    request.kv_sent_tokens += tokens
                request.pending_transfers += 1
            self._on_the_way[ticket, part] = [request for request, _ in outgoing[target]]

    @staticmethod
    def count_sent(outgoing: Mapping[int, list[tuple[Request, int]]]) -> None:
        """Count tokens as sent when their batch is formed: the next one may be, before this one's stages have run."""
        for sent in outgoing.values():
            for request, tokens in sent:
                request.kv_sent_tokens += tokens

    def landed(self, ticket: int, part: int) -> list[Request]:
        """Note a finished transfer; return the requests that are now complete at the decode side."""
        requests = self._on_the_way.pop((ticket, part))
        for request in requests:
            request.pending_transfers -= 1
        return [request for request in requests if self.is_complete(request)]

    @staticmethod
    def is_complete(request: Request) -> bool:
        """Whether a request has left its prefill instance and all its KV has landed."""
        return request.state is RequestState.TRANSFERRING and request.pending_transfers == 0

    def hand_over(self, request: Request) -> Instance:
        """Free the prefill side's blocks and queue the request at its decode instance."""
        source = self._instances[request.instance_id]
        source.scheduler.release(request)
        source.forget(1)
        target = self._instances[request.decode_instance_id]
        request.instance_id = target.instance_id
        request.written_chunks = 0  # the pool of prefixes there may be another one
        request.blocks, request.reserved_blocks = request.reserved_blocks, 0
        target.scheduler.enqueue(request)
        return target
