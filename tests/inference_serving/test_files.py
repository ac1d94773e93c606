"""Output files appear whole or not at all, and whether they can be written is known before the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from astra_sim.input_error import InputError
from inference_serving.files import check_writable, write_whole


def test_a_file_gets_its_text(tmp_path):
    write_whole(tmp_path / "a.csv", "x,y\n1,2\n")
    assert (tmp_path / "a.csv").read_bytes() == b"x,y\n1,2\n"


def test_text_may_come_in_pieces(tmp_path):
    write_whole(tmp_path / "a.csv", (line for line in ("x,y\n", "1,2\n")))
    assert (tmp_path / "a.csv").read_bytes() == b"x,y\n1,2\n"


def test_text_is_utf_8_with_line_ends_as_given(tmp_path):
    write_whole(tmp_path / "a.csv", "ü\n")
    assert (tmp_path / "a.csv").read_bytes() == b"\xc3\xbc\n"


def test_missing_folders_are_made(tmp_path):
    write_whole(tmp_path / "a" / "b" / "c.csv", "x")
    assert (tmp_path / "a" / "b" / "c.csv").read_text() == "x"


def test_a_relative_path_is_below_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_whole(Path("a.csv"), "x")
    assert (tmp_path / "a.csv").read_text() == "x"


def test_an_old_file_is_replaced_and_only_the_new_one_is_left(tmp_path):
    (tmp_path / "a.csv").write_text("a much longer old text")
    write_whole(tmp_path / "a.csv", "new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.csv": "new"}


def test_until_the_new_text_is_whole_the_old_file_is_there_and_the_new_one_is_beside_it(
    tmp_path, monkeypatch
):
    file = tmp_path / "a.csv"
    file.write_text("old")
    seen = []
    replace = Path.replace

    def look_and_replace(source: Path, target: Path) -> Path:
        seen.append((file.read_text(), source.parent, source.read_text()))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", look_and_replace)
    write_whole(file, "new")
    assert seen == [("old", tmp_path, "new")]


def full_disk(*_: object) -> Iterator[str]:
    yield "half a te"
    raise OSError("disk full")


def test_a_failure_to_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a.csv", full_disk())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.csv": b"old"}


def test_a_failure_to_rename_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    (tmp_path / "a.csv").write_text("old")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a.csv", "a text")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.csv": b"old"}


def test_checking_a_good_place_says_nothing_and_makes_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c.csv", "--output")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_may_be_written_again(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    check_writable(tmp_path / "a.csv", "--output")
    assert (tmp_path / "a.csv").read_text() == "old"


def test_a_relative_path_is_checked_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_writable(Path("a/b.csv"), "--output")


def error_of(file: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_writable(file, "--output")
    return str(caught.value)


def test_a_folder_is_no_output_file(tmp_path):
    assert error_of(tmp_path) == f"{tmp_path}: --output: is a folder; give a file name"


@pytest.mark.parametrize("below", ["run.csv", "sub/run.csv"])
def test_nothing_can_be_written_below_a_file(tmp_path, below):
    (tmp_path / "file").write_text("")
    file = tmp_path / "file" / below
    assert error_of(file) == (f"{file}: --output: cannot be written: {tmp_path / 'file'} is not a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("below", ["run.csv", "sub/run.csv"])
def test_a_folder_without_permission_is_named(tmp_path, below):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert error_of(locked / below) == (
        f"{locked / below}: --output: cannot be written: no permission in {locked}"
    )


def test_permission_is_asked_for_the_nearest_folder_there_is(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    error_of(tmp_path / "a" / "b.csv")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_name_that_is_too_long_is_refused(tmp_path):
    file = tmp_path / ("x" * 300)
    assert error_of(file) == f"{file}: --output: cannot be written: File name too long"


def test_a_link_keeps_its_place_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_whole(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(pipe, "--output")
        write_whole(pipe, "text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
