"""Rejections: reasons and remedies, the limit, the table and rejected.csv."""

import csv

import pytest

from raycrnn import config
from raycrnn.data.rejections import (
    REMEDIES,
    Rejected,
    Rejection,
    check_rejections,
    rejection_table,
    write_rejected,
)
from raycrnn.errors import RaycrnnError

MISSING = Rejection("b.csv", 7, "x.png", "no such file", "/data/x.png")
EMPTY = Rejection("a.csv", 12, "y.png", "empty label", "no units")
ALSO_MISSING = Rejection("a.csv", 3, "z, 1.png", "no such file", "/data/z, 1.png")


def test_every_reason_for_a_rejection_has_a_remedy():
    for reason, remedy in REMEDIES.items():
        assert remedy
        rejected = Rejected(reason, "a.png")
        assert (rejected.reason, rejected.detail) == (reason, "a.png")


def test_a_reason_without_a_remedy_is_refused():
    with pytest.raises(AssertionError):
        Rejected("bad mood", "a.png")


def test_the_table_lists_each_reason_with_count_remedy_and_example():
    lines = rejection_table([MISSING, EMPTY, ALSO_MISSING]).splitlines()
    assert lines[0].split(maxsplit=1) == ["2", f"no such file: {REMEDIES['no such file']}"]
    assert lines[1].strip() == "for example b.csv, line 7: x.png: /data/x.png"
    assert lines[2].split(maxsplit=1) == ["1", f"empty label: {REMEDIES['empty label']}"]
    assert len(lines) == 4


@pytest.mark.parametrize(("rows", "max_rejected", "fails"), [(300, 0.01, False), (299, 0.01, True), (3, 1.0, True)])
def test_a_run_fails_if_more_than_the_allowed_share_or_all_samples_are_rejected(rows, max_rejected, fails):
    settings = config.Data(csv_files_train="x.csv", max_rejected=max_rejected)
    rejections = [MISSING, EMPTY, ALSO_MISSING]
    if not fails:
        check_rejections("train", rejections, rows, settings)
        return
    with pytest.raises(RaycrnnError, match=f"train set: 3 of {rows} samples cannot be used"):
        check_rejections("train", rejections, rows, settings)


def test_rejected_csv_is_sorted_by_file_and_line(tmp_path):
    write_rejected(tmp_path / "rejected.csv", [MISSING, EMPTY, ALSO_MISSING])
    with (tmp_path / "rejected.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "line", "path", "reason", "detail"]
    assert [row[:3] for row in rows[1:]] == [
        ["a.csv", "3", "z, 1.png"],
        ["a.csv", "12", "y.png"],
        ["b.csv", "7", "x.png"],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["rejected.csv"]


def test_the_text_of_a_rejection_is_its_reason_and_detail():
    assert str(Rejected("not an image", "3 bytes")) == "not an image: 3 bytes"
