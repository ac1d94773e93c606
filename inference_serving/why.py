"""Tell in words why a request waited: ``python -m inference_serving.why RUN.csv REQUEST``.

Reads the ``wait_ledger`` column of a run with ``--wait-ledger``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from astra_sim.input_error import InputError
from inference_serving.wait_ledger import NOBODY, Cause

_NS_PER_MS = 1e6
_MOST_TOLD = 8
Row = Mapping[str, str]
Account = Mapping[tuple[Cause, int], int]


def ledger_text(account: Account) -> str:
    """An account as one CSV cell, the largest parts first: ``blocked:4=1900 compute=31``."""
    parts = sorted(account.items(), key=lambda item: (-item[1], item[0]))
    return " ".join(f"{cause}{'' if who == NOBODY else f':{who}'}={ns}" for (cause, who), ns in parts)


def parse_ledger(text: str) -> Account:
    """Read what :func:`ledger_text` wrote; raises ValueError for anything else."""
    account = {}
    for part in text.split():
        name, _, ns = part.partition("=")
        cause, colon, who = name.partition(":")
        account[Cause(cause), int(who) if colon else NOBODY] = int(ns)
    return account


def main(argv: list[str] | None = None) -> int:
    """Print the story of one request; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m inference_serving.why", description=__doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN.csv", help="per-request CSV of a run with --wait-ledger"
    )
    parser.add_argument("request", type=int, metavar="REQUEST", help="request id")
    args = parser.parse_args(argv)
    try:
        rows = _read(args.run)
        if args.request not in rows:
            known = f"0 to {max(rows)}" if rows else "none"
            raise InputError(
                args.run, "request id", f"{args.request}: no such finished request; there are {known}"
            )
        print("\n".join(story(rows, args.request)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _read(file: Path) -> dict[int, Row]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            csv.field_size_limit(2**31 - 1)
            rows: dict[int, Row] = {}
            for row in csv.DictReader(lines):
                if not row.get("wait_ledger"):
                    raise InputError(
                        file, "wait_ledger", "no such column, or it is empty; run main.py with --wait-ledger"
                    )
                rows[int(row["request id"])] = row
            return rows
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(file, "", "no such file") from None
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(file, "", f"not a per-request CSV of main.py: {error}") from None
    except OSError as error:
        raise InputError(file, "", f"cannot be read: {error.strerror}") from None


def story(rows: Mapping[int, Row], request_id: int) -> Iterator[str]:
    """The story of one request, a line at a time; raises InputError if its ledger cannot be read."""
    row = rows[request_id]
    try:
        account = parse_ledger(row["wait_ledger"])
    except ValueError:
        raise InputError("", "wait_ledger", f"{row['wait_ledger']!r}: not a ledger of main.py") from None
    ttft_ns = int(row["TTFT"])
    yield (
        f"{_name(rows, request_id).capitalize()}, arrived at {int(row['arrival']) / 1e9:.3f} s at instance "
        + (f"{row['prefill_instance_id']}.")
    )
    alone_ns = int(row["isolated_prefill"])
    yield (
        f"Its first token came after {_ms(ttft_ns)}; alone it would have taken {_ms(alone_ns)}: "
        f"a slowdown of {float(row['slowdown']):.1f}."
    )
    if row["bound"]:
        yield (
            f"The policy had promised at most {_ms(int(row['bound']))}; others who came later held it up for "
            f"{_ms(int(row['overtaken']))}."
        )
    parts = sorted(account.items(), key=lambda item: -item[1])
    for (cause, who), ns in parts[:_MOST_TOLD]:
        yield f"  {_ms(ns):>14}  {100 * ns / max(ttft_ns, 1):5.1f} %  {_phrase(rows, cause, who)}"
    if rest := parts[_MOST_TOLD:]:
        ns = sum(part for _, part in rest)
        yield f"  {_ms(ns):>14}  {100 * ns / max(ttft_ns, 1):5.1f} %  {len(rest)} smaller parts"


def _phrase(rows: Mapping[int, Row], cause: Cause, who: int) -> str:
    name = _name(rows, who)
    return {
        Cause.COMPUTE: "computing its own prompt",
        Cause.SHARED: f"in an iteration together with {name}",
        Cause.BEHIND: f"waiting while the token budget went to {name}",
        Cause.BLOCKED: f"blocked by {name}",
        Cause.KV: "waiting for free KV blocks" + ("" if who == NOBODY else f", behind {name}"),
        Cause.DECODE: "waiting for room at its decode instance"
        + ("" if who == NOBODY else f", behind {name}"),
        Cause.IDLE: "waiting while nothing ran",
    }[cause]


def _name(rows: Mapping[int, Row], request_id: int) -> str:
    if request_id == NOBODY:
        return "decodes"
    if request_id not in rows:
        return f"request {request_id}"
    row = rows[request_id]
    return f"request {request_id} ({row['class']}, {row['input']} prompt tokens)"


def _ms(ns: int) -> str:
    return f"{ns / _NS_PER_MS:.3f} ms"


if __name__ == "__main__":
    raise SystemExit(main())
