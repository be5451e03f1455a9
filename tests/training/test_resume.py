"""Resuming: what must be the same as at the checkpoint, without a cluster."""

import json
import logging

import pytest

from raycrnn import config
from raycrnn.data import labelled_csvs
from raycrnn.errors import UsageError
from raycrnn.storage import Directory
from raycrnn.training import resume

ROWS = ["images/0.png;ab\n", "images/1.png;ba\n"]


def write(folder, **files):
    """Write CSVs to a new folder, and return the configuration that trains on all of them but `eval`."""
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.csv").write_text("".join(rows))
    trained = [str(folder / f"{name}.csv") for name in files if name != "eval"]
    evaluated = [str(folder / "eval.csv")] if "eval" in files else []
    return config.parse({"data": {"csv_files_train": trained, "csv_files_eval": evaluated}})


def state_of(settings):
    """Return the part of a checkpoint's state that a resume compares, and as raycrnn 0.1 wrote it."""
    csvs = labelled_csvs.read(settings)
    files = {"train": settings.data.train_csvs, "eval": settings.data.csv_files_eval}
    common = {"alphabet": ["a", "b"], "csv_digests": csvs.digests}
    paths = {f"data.csv_files_{name}": list(each) for name, each in files.items()}
    return (
        {**common, "identity": settings.identity(), "csv_files": files, "csv_row_digests": csvs.row_digests},
        {**common, "identity": {**settings.identity(), **paths}},
    )


def check(state, settings):
    files = {"train": settings.data.train_csvs, "eval": settings.data.csv_files_eval}
    resume.check_same_settings(state["identity"], settings.identity())
    resume.check_same_data(state, labelled_csvs.read(settings), files, Directory("output"))


@pytest.mark.parametrize("version", [0, 1])
def test_csvs_at_another_place_are_the_same_and_a_line_says_where_they_are(tmp_path, caplog, version):
    state = state_of(write(tmp_path / "here", train=ROWS, eval=ROWS[:1]))[version]
    with caplog.at_level(logging.INFO):
        check(state, write(tmp_path / "here", train=ROWS, eval=ROWS[:1]))
        assert not caplog.messages
        check(state, write(tmp_path / "there", train=ROWS, eval=ROWS[:1]))
    [message] = caplog.messages
    assert message.startswith("the CSVs have moved since the checkpoint, with the same rows: ")
    assert f"{tmp_path}/there/train.csv (then {tmp_path}/here/train.csv)" in message
    assert f"{tmp_path}/there/eval.csv" in message


@pytest.mark.parametrize("version", [0, 1])
def test_changed_csvs_are_named_wherever_they_are(tmp_path, version):
    state = state_of(write(tmp_path / "here", train=ROWS, eval=ROWS))[version]
    here, there = tmp_path / "here", tmp_path / "there"
    with pytest.raises(UsageError, match=rf"changed: {there}/train.csv \(then {here}/train.csv\)\):"):
        check(state, write(there, train=[*ROWS, "images/0.png;a\n"], eval=ROWS))
    with pytest.raises(UsageError, match=rf"changed: {here}/eval.csv\):"):
        check(state, write(here, train=ROWS, eval=ROWS[:1]))


@pytest.mark.parametrize("version", [0, 1])
def test_another_number_or_order_of_csvs_is_refused(tmp_path, version):
    state = state_of(write(tmp_path / "here", a=ROWS, b=ROWS[:1]))[version]
    with pytest.raises(UsageError, match=r"train, another order: \S*a.csv, \S*b.csv then, \S*c.csv, \S*d.csv now"):
        check(state, write(tmp_path / "there", c=ROWS[:1], d=ROWS))
    with pytest.raises(UsageError, match=r"train: \S*a.csv, \S*b.csv then, \S*a.csv now"):
        check(state, write(tmp_path / "here", a=ROWS))
    with pytest.raises(UsageError, match=r"eval: none then, \S*eval.csv now"):
        check(state, write(tmp_path / "here", a=ROWS, b=ROWS[:1], eval=ROWS))


def test_absolute_paths_that_were_edited_after_a_move_are_the_same_rows(tmp_path):
    def rows(folder):
        return [f"{tmp_path}/{folder}/{row}" for row in ROWS]

    state, old = state_of(write(tmp_path / "here", train=rows("here")))
    check(state, write(tmp_path / "there", train=rows("there")))
    with pytest.raises(UsageError, match="changed: "):
        check(old, write(tmp_path / "there", train=rows("there")))
    with pytest.raises(UsageError, match="changed: "):
        check(state, write(tmp_path / "there", train=rows("there")[::-1]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a.png;x\n"], ["a.png;y\n"]),
        (["a.png;x\n"], ["b.png;x\n"]),
        (["a.png;1\n", "b.png;2\n"], ["b.png;2\n", "a.png;1\n"]),
        (["a.png;x\n", "b.png\n"], ["a.png;x\n", "b.png;\n"]),
    ],
)
def test_the_digest_of_rows_depends_on_labels_names_and_order(tmp_path, one, other):
    digests = [
        labelled_csvs.digest_rows(labelled_csvs.csv_files.read_csv(path))
        for path in (_write(tmp_path / "one.csv", one), _write(tmp_path / "other.csv", other))
    ]
    assert digests[0] != digests[1]


def _write(path, rows):
    path.write_text("".join(rows))
    return path


def finished(folder, limits, step=60, best=(40, 4.0), **more):
    """Return the directory and the state of a finished run with ten steps an epoch."""
    (folder / "model").mkdir(exist_ok=True)
    progress = {"step": step, "finished": True, "best": {"step": best[0], "epoch": best[1]}, **more}
    return Directory(folder), {"progress": progress, "rejected_count": 0, "limits": {**LIMITS, **limits}}


LIMITS = {"n_epochs": 6, "max_minutes": None, "early_stopping": None}


@pytest.mark.parametrize(
    ("before", "step", "now", "goes_on"),
    [
        ({}, 60, {}, False),
        ({}, 60, {"n_epochs": 5}, False),
        ({}, 60, {"n_epochs": 7}, True),
        ({"max_minutes": 2.0}, 35, {"max_minutes": 2.0}, False),
        ({"max_minutes": 2.0}, 35, {"max_minutes": 1.0}, False),
        ({"max_minutes": 2.0}, 35, {"max_minutes": 3.0}, True),
        ({"max_minutes": 2.0}, 35, {}, True),
        # All epochs were trained: more time is not needed.
        ({"max_minutes": 2.0}, 60, {"max_minutes": 3.0}, False),
        ({"early_stopping": 3}, 35, {"early_stopping": 3}, False),
        ({"early_stopping": 3}, 35, {"early_stopping": 4}, True),
        ({"early_stopping": 3}, 35, {}, True),
        # The default, 3,000 steps of this run with 10 steps an epoch, and the same as a limit.
        ({}, 60, {"n_epochs": None}, True),
        ({"n_epochs": None}, 3000, {"n_epochs": None}, False),
        ({"n_epochs": None}, 3000, {"n_epochs": 301}, True),
        # A limit that the finished run did not have.
        ({}, 60, {"max_minutes": 3.0, "early_stopping": 3}, False),
    ],
)
def test_a_finished_run_trains_on_only_with_larger_limits(tmp_path, caplog, before, step, now, goes_on):
    training = config.Training(**{"n_epochs": 6, **now})
    with caplog.at_level(logging.INFO):
        assert resume.trains_on(*finished(tmp_path, before, step), training) is goes_on
    assert bool(caplog.messages) is goes_on


def test_an_earlier_version_finished_its_epochs_although_it_rounded_that_of_its_best_model(tmp_path):
    # 7,625 steps an epoch, which are 7,626 by the rounded epoch.
    run = finished(tmp_path, {"n_epochs": 2, "max_minutes": 2.0}, step=2 * 7625, best=(12483, 1.637))
    assert not resume.trains_on(*run, config.Training(n_epochs=2, max_minutes=3.0))


@pytest.mark.parametrize(("epochs", "goes_on"), [(6, False), (7, True)])
def test_a_finished_run_whose_best_model_is_that_before_the_first_step_can_train_on(tmp_path, epochs, goes_on):
    run = finished(tmp_path, {}, best=(0, 0.0), batches_per_epoch=10)
    assert resume.trains_on(*run, config.Training(n_epochs=epochs)) is goes_on


def test_a_line_says_from_where_to_where_a_finished_run_trains_on(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert resume.trains_on(*finished(tmp_path, {}), config.Training(n_epochs=80, max_minutes=9.5))
    assert "trains on from epoch 6 to 80, for at most 9.5 minutes, with a new one_cycle schedule" in caplog.text


def test_the_limits_of_a_checkpoint_of_an_earlier_version_are_those_of_its_command(tmp_path):
    output, state = finished(tmp_path, {})
    del state["limits"]
    tree = {"data": {"csv_files_train": "a.csv"}, "training": {"n_epochs": 6}}
    (tmp_path / "run.json").write_text(json.dumps({"configuration": tree}))
    assert not resume.trains_on(output, state, config.Training(n_epochs=6))
    assert resume.trains_on(output, state, config.Training(n_epochs=7))
