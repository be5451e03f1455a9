"""Atomic replacement of files and directories, and locks."""

import errno
import fcntl
import os

import pytest

from raycrnn import storage
from raycrnn.errors import UsageError
from raycrnn.storage import atomic

BUSY = UsageError("in use")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "file"
    storage.write_text(path, "old\r\n")
    with pytest.raises(RuntimeError), storage.replacing_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == b"old\r\n"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_is_replaced_with_all_its_files(tmp_path):
    path = tmp_path / "model"
    for name in ("old", "new"):
        with storage.replacing_directory(path) as temporary:
            (temporary / name).touch()
    assert os.listdir(path) == ["new"]
    with pytest.raises(RuntimeError), storage.replacing_directory(path):
        raise RuntimeError
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["model"]


def test_the_old_directory_is_found_and_restored_after_a_kill_between_the_renames(tmp_path):
    path, old = tmp_path / "model", tmp_path / ".model.1234.old"
    old.mkdir()
    assert storage.current_directory(path) == old
    storage.restore_directory(path)
    assert storage.current_directory(path) == path
    assert os.listdir(tmp_path) == ["model"]


def test_a_lock_is_held_by_one_and_its_file_is_deleted(tmp_path):
    file = tmp_path / storage.LOCK
    with storage.lock(file, BUSY):
        with pytest.raises(UsageError, match="in use"), storage.lock(file, BUSY):
            pass
        assert file.exists()
    assert os.listdir(tmp_path) == []
    with storage.lock(file, BUSY):
        pass


@pytest.mark.parametrize("number", sorted(atomic.NO_LOCKS))
def test_a_file_system_without_locks_gets_one_warning_that_names_the_folder(tmp_path, monkeypatch, caplog, number):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    file = tmp_path / storage.LOCK
    # As after a process on another node was killed.
    file.touch()
    for _ in range(2):
        with storage.lock(file, BUSY) as locked:
            assert not locked
    [record] = caplog.records
    assert f"{tmp_path}: its file system has no locks" in record.message
    assert "cannot tell whether another command writes there" in record.message
    assert os.listdir(tmp_path) == []


def test_other_errors_of_a_lock_are_raised(tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="input/output error"), storage.lock(tmp_path / storage.LOCK, BUSY):
        pass
