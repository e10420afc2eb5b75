"""What a plugin's process writes to stderr: one inert line a record, bounded on disk, in memory and in time."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.masking import Secrets
from ally_plugins.runtime.processes.stderrlog import BURST, FILE_BYTES, LINE_BYTES, RATE, StderrLog, log_file

RECORD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z .*\Z")


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _log(folder: Path, clock: _Clock | None = None, *, file_bytes: int = FILE_BYTES) -> StderrLog:
    return StderrLog(folder / "x.log", clock=clock or _Clock(), file_bytes=file_bytes)


def _texts(folder: Path, name: str = "x.log") -> list[str]:
    lines = (folder / name).read_text("utf-8").splitlines()
    assert all(RECORD.match(line) for line in lines)
    return [line.split(" ", 1)[1] for line in lines]


def test_each_line_is_a_record_with_its_time_whatever_pieces_it_came_in(tmp_path: Path) -> None:
    log = _log(tmp_path)
    for piece in (b"one\ntw", b"o\r\n", b"", b"\nthree"):
        log.write(piece)
    assert _texts(tmp_path) == ["one", "two", ""]
    log.close()
    assert _texts(tmp_path) == ["one", "two", "", "three"]
    assert log.lines == 4


def test_what_would_act_on_a_terminal_is_escaped(tmp_path: Path) -> None:
    log = _log(tmp_path)
    log.write(b"\x1b[2J\x1b]0;title\x07 a\rb\tc \xff\xfe \xe2\x80\xae \xc2\x9b31m \xe2\x80\xa8 \xc3\xa9\n")
    log.close()
    assert _texts(tmp_path) == [r"\x1b[2J\x1b]0;title\x07 a\rb\tc �� \u202e \x9b31m \u2028 é"]


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_no_bytes_make_a_record_of_another_shape(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = _log(folder)
    for piece in pieces:
        log.write(piece)
    log.close()
    everything = b"".join(pieces)
    expected = everything.count(b"\n") + (not everything.endswith(b"\n") and bool(everything))
    assert (len(_texts(folder)) if expected else 0) == expected == log.lines


def test_a_long_line_is_cut_and_says_how_much_is_missing(tmp_path: Path) -> None:
    log = _log(tmp_path)
    for _ in range(10):
        log.write(b"x" * 1000)
    log.write(b"\nnext\n")
    log.close()
    assert _texts(tmp_path) == ["x" * LINE_BYTES + f" ... [{10_000 - LINE_BYTES} more bytes]", "next"]


def test_a_hundred_megabytes_without_a_line_feed_are_one_line_in_memory_and_on_disk(tmp_path: Path) -> None:
    clock = _Clock()
    log = _log(tmp_path, clock)
    chunk = b"y" * 65_536
    for _ in range(1600):
        log.write(chunk)
        clock.now += 0.001
    log.write(b"\nafter\n")
    assert len(log._partial) <= LINE_BYTES
    clock.now += 60
    log.write(b"calm\n")
    log.close()
    texts = _texts(tmp_path)
    assert texts[-1] == "calm"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * FILE_BYTES


def test_a_flood_is_dropped_counted_and_said_and_the_last_lines_are_still_known(tmp_path: Path) -> None:
    clock = _Clock()
    log = _log(tmp_path, clock)
    chunk = b"noise noise noise noise\n" * 2730
    for _ in range(200):
        log.write(chunk)
    log.write(b"the last words\n")
    clock.now += 3600
    log.write(b"calm\n")
    log.close()
    texts = [text for name in ("x.log.1", "x.log") if (tmp_path / name).exists() for text in _texts(tmp_path, name)]
    told = next(text for text in texts if text.startswith("["))
    found = re.match(r"\[(\d+) lines, (\d+) bytes dropped: more than 64 KiB a second\]", told)
    assert found is not None
    assert int(found[1]) + len(texts) - 2 == 200 * 2730 + 1
    assert int(found[1]) == log.dropped_lines
    assert texts[-1] == "calm"
    assert log.tail[-2:] == ("the last words", "calm")


def test_in_the_long_run_no_more_than_the_rate_is_written(tmp_path: Path) -> None:
    clock = _Clock()
    log = _log(tmp_path, clock, file_bytes=1 << 30)
    for _ in range(10_000):
        log.write(b"z" * 4000 + b"\n")
        clock.now += 0.01
    log.close()
    assert (tmp_path / "x.log").stat().st_size <= BURST + 100 * RATE + 100 * 100


def test_the_file_and_its_predecessor_are_bounded(tmp_path: Path) -> None:
    clock = _Clock()
    log = _log(tmp_path, clock, file_bytes=10_000)
    for number in range(2000):
        log.write(b"line %d\n" % number)
        clock.now += 1
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]
    assert all(path.stat().st_size <= 10_000 for path in tmp_path.iterdir())
    assert _texts(tmp_path)[-1] == "line 1999"
    whole = [*_texts(tmp_path, "x.log.1"), *_texts(tmp_path)]
    assert whole == [f"line {number}" for number in range(2000 - len(whole), 2000)]


def test_two_hosts_that_share_a_log_do_not_throw_each_others_lines_away(tmp_path: Path) -> None:
    clock = _Clock()
    one, two = _log(tmp_path, clock, file_bytes=5_000), _log(tmp_path, clock, file_bytes=5_000)
    for number in range(300):
        one.write(b"one %d\n" % number)
        two.write(b"two %d\n" % number)
        clock.now += 1
    one.close()
    two.close()
    kept = [*_texts(tmp_path, "x.log.1"), *_texts(tmp_path)]
    assert len(kept) >= 100
    assert {"one 299", "two 299"} <= set(kept)


def test_the_tail_is_inert_and_begins_anew_for_the_next_process(tmp_path: Path) -> None:
    log = _log(tmp_path)
    log.write(b"Traceback\n\x1b[31mboom\x1b[0m\n\nhalf a li")
    assert log.tail == ("Traceback", r"\x1b[31mboom\x1b[0m", "half a li")
    log.end()
    log.forget_tail()
    assert not log.tail
    log.close()


def test_the_hosts_own_notes_stand_in_brackets(tmp_path: Path) -> None:
    log = _log(tmp_path)
    log.note("started, pid 7")
    log.write(b"[started, pid 8]\n")
    log.close()
    assert _texts(tmp_path)[0] == "[started, pid 7]"


def test_a_log_that_cannot_be_written_counts_and_never_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = StderrLog(tmp_path / "file" / "x.log", clock=_Clock())
    log.write(b"one\ntwo\n")
    log.close()
    assert (log.lines, log.dropped_lines) == (0, 2)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_the_owner_reads_a_log_and_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    log = _log(tmp_path)
    log.write(b"secret\n")
    log.close()
    assert (tmp_path / "x.log").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link.log").symlink_to(tmp_path / "elsewhere")
    link = StderrLog(tmp_path / "link.log", clock=_Clock())
    link.write(b"secret\n")
    link.close()
    assert not (tmp_path / "elsewhere").exists()


def test_no_two_plugins_share_a_file_and_none_leaves_the_folder(tmp_path: Path) -> None:
    names = ["a", "folder:a", "folder_a", "../a", "a/b", "a%3Ab", "a:b", "ä"]
    files = [log_file(tmp_path, name) for name in names]
    assert len(set(files)) == len(names)
    assert all(file.parent == tmp_path and ":" not in file.name for file in files)


TOKEN = "tok-" + "é" * 300


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_secret_is_on_no_line_and_in_no_end_whatever_pieces_it_came_in(tmp_path: Path, size: int) -> None:
    log = _log(tmp_path)
    log.hide(Secrets([TOKEN]))
    data = f"{'x' * (LINE_BYTES - 100)}{TOKEN} behind\nkey={TOKEN}\nto".encode()
    for begin in range(0, len(data), size):
        log.write(data[begin : begin + size])
    log.note(f"it said {TOKEN}")
    log.close()
    written = (tmp_path / "x.log").read_text("utf-8") + "".join(log.tail)
    assert "é" not in written
    assert _texts(tmp_path)[1:] == ["key=[secret]", "[it said [secret]]", "to"]


def test_a_secret_that_was_changed_is_masked_with_the_new_one(tmp_path: Path) -> None:
    log = _log(tmp_path)
    for secret in ("old-one", "new-one"):
        log.hide(Secrets([secret]))
    log.write(b"old-one new-one\n")
    assert _texts(tmp_path) == ["[secret] [secret]"]
    log.close()


def test_a_line_of_a_private_key_is_masked_by_itself(tmp_path: Path) -> None:
    log = _log(tmp_path)
    log.hide(Secrets(["-----BEGIN KEY-----\nMIIEvQIBADAN\n-----END KEY-----\n"]))
    log.write(b"cannot read\n  MIIEvQIBADAN\n")
    assert _texts(tmp_path) == ["cannot read", "  [secret]"]
    log.close()
