"""Outputs are whole or as they were, whoever writes them too or is killed in between."""

import os
import re
import stat
import subprocess
import sys
import textwrap
import threading

import pytest

from adue_sklearn._utils import files
from adue_sklearn.exceptions import OutputError

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs flock and signals")


def temporaries(folder):
    return list(folder.glob(".*.tmp"))


def test_the_content_is_there_after_the_block_and_not_before(tmp_path):
    file = tmp_path / "out.txt"
    file.write_text("old")
    with files.open_atomically(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_the_file_is_as_it_was(tmp_path, error):
    file = tmp_path / "out.txt"
    file.write_text("old")

    def write():
        with files.open_atomically(file) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert file.read_text() == "old"
    assert not temporaries(tmp_path)


def test_file_and_folder_are_flushed_to_disk(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.fstat(fd).st_ino), fsync(fd)))
    folder = tmp_path / "a" / "b"
    files.make_folder(folder)
    made_in = {place.stat().st_ino for place in (tmp_path, tmp_path / "a")}
    assert os.name == "nt" or made_in <= set(flushed)
    files.write_file(folder / "out", b"x")
    assert (folder / "out").stat().st_ino in flushed
    assert os.name == "nt" or folder.stat().st_ino in flushed


@posix_only
def test_the_mode_is_what_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_file(tmp_path / "out", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_two_writers_of_one_file_do_not_tear_it(tmp_path):
    file = tmp_path / "out"

    def write(letter):
        for _ in range(20):
            with files.open_atomically(file) as stream:
                for _ in range(50):
                    stream.write(letter * 1000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if file.exists():
            content = file.read_bytes()
            assert (len(content), len(set(content))) == (50_000, 1)
    assert not temporaries(tmp_path)


@posix_only
def test_a_planted_link_under_a_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = iter(["0" * 16, "1" * 16])
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: next(names))
    (tmp_path / f".out.{'0' * 16}.tmp").symlink_to(victim)
    files.write_file(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_text() == "new"
    assert victim.read_text() == "precious"


@posix_only
def test_what_a_killed_writer_left_is_cleared_and_a_living_one_is_left_alone(tmp_path):
    code = """
    import runpy, sys
    from pathlib import Path
    module, target = sys.argv[1:]
    with runpy.run_path(module)["open_atomically"](Path(target)) as stream:
        stream.write(b"half")
        print("writing", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), files.__file__, tmp_path / "out"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        (of_the_living,) = temporaries(tmp_path)
        files.write_file(tmp_path / "out", b"other")
        assert temporaries(tmp_path) == [of_the_living]
        writer.kill()
    (tmp_path / ".else.0123456789abcdef.tmp").write_text("of another file")
    (tmp_path / ".out.notes.tmp").write_text("not ours")
    files.write_file(tmp_path / "out", b"new")
    assert {file.name for file in temporaries(tmp_path)} == {
        ".else.0123456789abcdef.tmp",
        ".out.notes.tmp",
    }
    assert (tmp_path / "out").read_text() == "new"


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "missing" / "out", tmp_path / "file" / "out"):
        with pytest.raises(OutputError, match=f"'{re.escape(str(target))}' could not be written"):
            files.write_file(target, b"x")
    with pytest.raises(OutputError, match="is a folder; name a file"):
        files.write_file(tmp_path, b"x")
    with pytest.raises(OutputError, match="not a regular file"):
        files.write_file(type(tmp_path)(os.devnull), b"x")
    with pytest.raises(OutputError, match="could not be written"):
        files.make_folder(tmp_path / "file" / "folder")


def test_an_error_of_reading_inside_the_block_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), files.open_atomically(tmp_path / "out"):
        (tmp_path / "missing").read_text()


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path):
    file = tmp_path / ("x" * 250)
    files.write_file(file, b"x")
    assert file.read_text() == "x"
