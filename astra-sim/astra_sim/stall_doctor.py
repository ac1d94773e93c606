"""Why a simulation stands still: the chain of nodes that wait for each other, from C++'s list of blocked nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

_LONGEST_CHAIN = 12


class BlockedNode(NamedTuple):
    """A node that can never finish."""

    npu: int
    node_id: int
    name: str
    cause: str
    """What it waits for, such as ``waits for node 3 (send)``."""
    blocker: int | None
    """Index, in the list of blocked nodes, of the one it waits for; None where the chain ends."""

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        return f"NPU {self.npu}, node {self.node_id}{name} {self.cause}"


def diagnosis(blocked: Sequence[BlockedNode]) -> list[str]:
    """Lines that name who waits for whom: the wait-for chain, and how it ends; empty if nothing is blocked.

    Of all chains one is shown: a circle if there is one, else the one that leads to the first node whose cause
    is not another node. A long chain is cut in its middle.
    """
    if not blocked:
        return []
    npus = len({node.npu for node in blocked})
    lines = [
        f"{_count(len(blocked), 'node')} on {_count(npus, 'NPU')} can never finish; nothing is left to happen"
    ]
    chain, closes = _chain(blocked)
    entries = [f"{'  ' if step == 0 else '  -> '}{blocked[index]}" for step, index in enumerate(chain)]
    if len(entries) > _LONGEST_CHAIN:
        half = _LONGEST_CHAIN // 2
        entries[half:-half] = [f"  -> ... {len(entries) - 2 * half} more ..."]
    lines += entries
    if closes:
        first = blocked[chain[0]]
        lines.append(f"  a circle: this is NPU {first.npu}, node {first.node_id} again")
    return lines


def _chain(blocked: Sequence[BlockedNode]) -> tuple[list[int], bool]:
    """Indices of a circle and True, or of a chain that ends at a root cause and False."""
    circle = next(_circles(blocked), None)
    if circle is not None:
        return circle, True
    waits_for = {node.blocker for node in blocked}
    start = next(index for index in range(len(blocked)) if index not in waits_for)
    return _follow(blocked, start), False


def _circles(blocked: Sequence[BlockedNode]) -> Iterator[list[int]]:
    seen: set[int] = set()
    for start in range(len(blocked)):
        path: list[int] = []
        index: int | None = start
        while index is not None and index not in seen:
            seen.add(index)
            path.append(index)
            index = blocked[index].blocker
        if index in path:
            yield path[path.index(index) :]


def _follow(blocked: Sequence[BlockedNode], start: int) -> list[int]:
    path = [start]
    while (following := blocked[path[-1]].blocker) is not None:
        path.append(following)
    return path


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
