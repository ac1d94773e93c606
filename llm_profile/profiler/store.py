"""Put finished tables in their place: written beside it, read back by the simulator's reader, then renamed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llm_profile.latency import LatencyQuery, open_latency_model

READ_BACK = {
    "tables": ("layers.csv", "attention.csv"),
    "bundle": ("dense.csv", "per_sequence.csv", "attention.csv"),
}
"""Files that a latency source needs, all of which must be there for it to be tried."""


def write_tables(root: Path, files: Mapping[Path, str], query: LatencyQuery, source: str) -> list[Path]:
    """Write ``files`` (paths below ``root``) whole, all or none; the reader's error if it would refuse them.

    Tables of only one part, which no reader takes yet, are written unread; a part that is there already is
    read together with the new one.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _staging(root) as staging:
        for file, text in files.items():
            place = staging / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        present = {file.name: file for file in files}
        folders = {file.parent for file in files if file.suffix == ".csv"}
        for name in READ_BACK[source]:
            for folder in folders:
                if name not in present and (root / folder / name).is_file():
                    shutil.copy(root / folder / name, staging / folder / name)
                    present[name] = folder / name
        if all(name in present for name in READ_BACK[source]):
            open_latency_model(_at(query, staging), source)
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (staging / file).replace(root / file)
    return [root / file for file in files]


def replace_file(file: Path, text: str) -> None:
    """Write one file whole, making its folder if there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _staging(file.parent) as staging:
        (staging / file.name).write_text(text, encoding="utf-8")
        (staging / file.name).replace(file)


def _at(query: LatencyQuery, folder: Path) -> LatencyQuery:
    return LatencyQuery(
        query.hardware,
        query.model,
        query.tp_size,
        weight_bits=query.weight_bits,
        kv_bits=query.kv_bits,
        profile_dir=folder,
    )


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder on the same file system, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".profile-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
