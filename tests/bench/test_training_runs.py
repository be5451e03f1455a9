"""Comparisons of settings: what is trained on which rows, and what is kept and printed."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest
from PIL import Image

from raycrnn.bench import accuracy, plots, run_summaries, training_plan, training_runs
from raycrnn.bench.accuracy import Accuracy
from raycrnn.bench.curve import Curve
from raycrnn.bench.training_runs import RunResult
from raycrnn.errors import UsageError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of 40 lines of ten books."""
    folder = tmp_path / "data" / "books"
    folder.mkdir(parents=True)
    for number in range(40):
        Image.new("L", (40, 32), number).save(folder / f"book{number % 10}_{number}.png")
    rows = [f"book{number % 10}_{number}.png;{number}\n" for number in range(40)]
    (folder / "labels.csv").write_text("".join(rows))
    return folder.parent


def write_plan(folder: Path, **changes: object) -> Path:
    plan = {"sets": {"books": {"csv": "books/labels.csv", "epochs": 3, "group": "(book\\d+)_"}}, "seeds": 1, **changes}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder / "plan.json"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The trainings that were started, whose rows are kept; each ends with a CER of 1 % for each training row."""
    started: list[SimpleNamespace] = []

    def run(command: list[str], **options: object) -> SimpleNamespace:
        tree = json.loads(Path(command[4]).read_text())
        train, evaluation = (
            re.findall(r"(book\d+_\d+)\.png;(\d+)\n", Path(tree["data"][f"csv_files_{name}"]).read_text())
            for name in ("train", "eval")
        )
        started.append(SimpleNamespace(tree=tree, overrides=command[5:], train=train, eval=evaluation))
        record = {"epoch": 3.0, "step": 9, "cer": 1.0, "wer": 1.0, "accuracy": 0.0, "train_loss": 2.0, "seconds": 5.0}
        before = {name: value for name, value in record.items() if name != "train_loss"} | {"epoch": 0.0, "step": 0}
        records = [before, record, {**record, "cer": len(train) / 100, "accuracy": 0.5}]
        output = Path(tree["output_model_dir"])
        output.mkdir()
        (output / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
        return SimpleNamespace(returncode=0)

    # Not the function of the whole process: Matplotlib lists the fonts with it the first time.
    monkeypatch.setattr(training_runs, "subprocess", SimpleNamespace(run=run))
    return started


def test_trains_each_setting_and_seed_on_rows_of_other_groups(data, tmp_path, commands, capsys):
    settings = {"default": [], "fast": ["training.learning_rate=2e-3"]}
    path = write_plan(tmp_path, settings=settings, seeds=2, common=["model.size=quarter"])
    assert Accuracy.call([str(path), "--data", str(data), "--output", str(tmp_path / "out"), "--json"], "bench") == 0
    seeds = [each.tree["training"]["seed"] for each in commands]
    assert seeds == [0, 0, 1, 1]
    assert [each.overrides for each in commands[:2]] == [
        ["model.size=quarter"],
        ["model.size=quarter", "training.learning_rate=2e-3"],
    ]
    for each in commands:
        books = [{path.partition("_")[0] for path, _ in rows} for rows in (each.train, each.eval)]
        assert not books[0] & books[1]
        assert len(each.train) == 32
        assert sorted(int(label) for _, label in each.train + each.eval) == list(range(40))
    assert commands[0].eval == commands[1].eval != commands[2].eval
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["books"]["fast"]["cer"] == 0.32
    assert (tmp_path / "out" / "accuracy.svg").read_text().startswith("<?xml")


def test_continues_with_the_runs_that_have_no_result(data, tmp_path, commands):
    output = tmp_path / "out"
    plan = training_plan.load(write_plan(tmp_path, seeds=2))
    first = training_runs.run_plan(plan, str(data), output)
    assert len(commands) == 2
    assert training_runs.run_plan(plan, str(data), output) == first
    assert len(commands) == 2
    changed = training_plan.load(write_plan(tmp_path, seeds=2, settings={"default": [], "new": ["model.keep_prob=1"]}))
    results = training_runs.run_plan(changed, str(data), output)
    assert len(commands) == 4
    assert [result.setting for result in results] == ["default", "new", "default", "new"]
    assert [result for result in results if result.setting == "default"] == first


def test_other_labels_or_another_share_are_trained_again(data, tmp_path, commands):
    output = tmp_path / "out"
    training_runs.run_plan(training_plan.load(write_plan(tmp_path)), str(data), output)
    labels = data / "books" / "labels.csv"
    labels.write_text(labels.read_text().replace(";39\n", ";93\n"))
    training_runs.run_plan(training_plan.load(write_plan(tmp_path)), str(data), output)
    assert len(commands) == 2
    plan = training_plan.load(write_plan(tmp_path))
    plan = plan.model_copy(update={"sets": {"books": plan.sets["books"].model_copy(update={"eval_share": 0.5})}})
    training_runs.run_plan(plan, str(data), output)
    assert len(commands) == 3


def test_a_damaged_line_of_results_is_named(data, tmp_path, commands):
    plan, output = training_plan.load(write_plan(tmp_path)), tmp_path / "out"
    training_runs.run_plan(plan, str(data), output)
    with (output / "results.jsonl").open("a") as file:
        file.write('{"set": "bo')
    with pytest.raises(UsageError, match=r"results\.jsonl, line 2: not a result"):
        training_runs.run_plan(plan, str(data), output)


def test_a_plan_with_numbers_of_rows_is_a_curve(data, tmp_path, commands, capsys):
    path = write_plan(tmp_path, rows=[5])
    assert Accuracy.call([str(path), "--data", str(data)], "bench accuracy") == 2
    assert "use bench curve" in capsys.readouterr().err


def test_selections_of_rows_contain_the_smaller_ones_and_take_enough_steps(data, tmp_path, commands, capsys):
    path = write_plan(tmp_path, rows=[5, 20], min_steps=10)
    assert Curve.call([str(path), "--data", str(data), "--output", str(tmp_path / "out"), "--json"], "bench curve") == 0
    small, large = commands
    assert (len(small.train), len(large.train)) == (5, 20)
    assert set(small.train) < set(large.train)
    assert small.eval == large.eval
    # 16 images in a batch: one step an epoch, and two.
    assert [each.tree["training"]["n_epochs"] for each in commands] == [10, 5]
    out = capsys.readouterr().out
    assert "| books | default | 5.0% ± 0.0% | 20.0% ± 0.0% |" in out
    curve = json.loads(out.splitlines()[-1])["books"]["default"]
    assert [(point["rows"], point["cer"]) for point in curve] == [(5, 0.05), (20, 0.2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": {}}, "sets"),
        ({"seed": 1}, "seed: unknown key; did you mean seeds?"),
        ({"sets": {"books": {"csv": "books/labels.csv", "epochs": 1, "group": "("}}}, "not a regular expression"),
        ({"common": ["training.seed=1"]}, "setting 'default': training.seed: cannot be set"),
        ({"settings": {"wrong": ["training.learning_rat=1"]}}, "setting 'wrong'"),
        ({"sets": {"books": {"csv": "other.csv", "epochs": 1}}}, "other.csv: no such file; --data"),
        ({"rows": [5, 33]}, "32 rows are left for training, fewer than the plan's 33"),
    ],
)
def test_a_wrong_plan_trains_nothing(changes, message, data, tmp_path, commands):
    path = write_plan(tmp_path, **changes)
    with pytest.raises(UsageError, match=re.escape(message)):
        training_runs.run_plan(training_plan.load(path), str(data), tmp_path / "out")
    assert not commands


def test_a_training_that_fails_is_told_with_its_output(data, tmp_path, monkeypatch, capsys):

    def run(command: list[str], stderr: TextIO, **options: object) -> SimpleNamespace:
        stderr.write("raycrnn train: training diverged")
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(training_runs, "subprocess", SimpleNamespace(run=run))
    path = write_plan(tmp_path)
    assert Accuracy.call([str(path), "--data", str(data), "--output", str(tmp_path / "out")], "bench accuracy") == 1
    error = capsys.readouterr().err
    assert "books, default, all rows, seed 0: training failed with exit code 1" in error
    assert "training diverged" in error


def result(setting: str, seed: int, cer: float, rows: int | None = None) -> RunResult:
    point = {"epoch": 1.0, "step": 1, "cer": cer, "accuracy": 0.0, "train_loss": 1.0}
    return RunResult("books", setting, rows, seed, {}, cer, cer, 0.25, 1, 60.0, [point], "a CPU")


def test_the_table_compares_settings_by_seed():
    results = [result("first", 0, 0.02), result("second", 0, 0.03), result("first", 1, 0.04), result("second", 1, 0.03)]
    lines = accuracy.table(results, ["first", "second"]).splitlines()
    assert lines[2] == "| books | first | 3.00% ± 1.41% | 25.0% | 60 |  |  |"
    assert lines[3] == "| books | second | 3.00% ± 0.00% | 25.0% | 60 | 1.00 | 1 of 2 |"


def test_a_curve_has_the_mean_of_the_seeds_at_each_number_of_rows(tmp_path):
    results = [
        result("first", seed, cer, rows)
        for rows, cers in [(50, (0.1, 0.3)), (25, (0.5, 0.5))]
        for seed, cer in enumerate(cers)
    ]
    [points] = run_summaries.points(results).values()
    assert [(point["rows"], point["cer"]) for point in points] == [(25, 0.5), (50, 0.2)]
    plots.learning_curves(
        run_summaries.points(results), {"books": {"another recogniser": 0.15}}, tmp_path / "curve.svg"
    )
    assert "another recogniser" in (tmp_path / "curve.svg").read_text()


@pytest.mark.filterwarnings("error")
def test_the_plot_of_a_single_number_of_rows_has_an_extent(tmp_path):
    points = run_summaries.points([result("first", 0, 0.02, 100)])
    plots.learning_curves(points, {"books": {"another recogniser": 0.15}}, tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_without_matplotlib_the_message_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Accuracy.call([str(write_plan(tmp_path))], "bench accuracy") == 2
    assert "pip install 'raycrnn[plots]'" in capsys.readouterr().err


def test_weights_that_a_run_starts_from_by_default_are_part_of_its_identity(data):
    folder = data / "letters"
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz" * 3
    for number in range(len(letters)):
        Image.new("L", (40, 32), number).save(folder / f"{number}.png")
    rows = [f"{number}.png;{letter}\n" for number, letter in enumerate(letters)]
    (folder / "labels.csv").write_text("".join(rows))
    sets = {name: {"csv": f"{name}/labels.csv", "epochs": 1} for name in ("letters", "books")}
    settings = {"default": [], "latin": ["training.initial_model=latin"], "random": ["training.initial_model=null"]}
    plan = training_plan.load(write_plan(data, sets=sets, settings=settings))
    prepared = training_runs._prepare(plan, str(data))
    weights = {(each.run.set, each.run.setting): each.initial_weights for each in prepared}
    latin = weights["letters", "latin"]
    assert latin == weights["letters", "default"] == weights["books", "latin"] and len(latin) == 64
    assert weights["letters", "random"] is weights["books", "default"] is weights["books", "random"] is None
