"""metrics.jsonl and TensorBoard logs: they continue with a run, and a full disk raises an error."""

import html
import json
import logging
import re
from dataclasses import replace

import pytest
import torch

from raycrnn.config import Training
from raycrnn.metrics.error_rates import Counts
from raycrnn.training import run_log
from raycrnn.training.learner import TrainingState
from raycrnn.training.run_log import RunLog, _table, metrics_record, read_metrics
from raycrnn.training.time_budget import Throughput
from raycrnn.training.validation import UNKNOWN_UNIT, ValidationExample, ValidationResult

RESULT = ValidationResult(Counts(1, 0, 1, 2, 1, 1), 1.0)


def scalars(folder) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_reads_the_scalars_and_evaluations(tmp_path):
    log = RunLog(tmp_path)
    log.open(TrainingState())
    log.scalars(10, {"train/loss": 1.5})
    example = ValidationExample(torch.zeros(1, 32, 40, dtype=torch.uint8), "a|b", "ab")
    result = ValidationResult(Counts(1, 0, 1, 2, 1, 1), 2.0, examples=(example,))
    log.evaluation({"step": 12, "cer": 0.5, "loss": 2.0}, result)
    log.close()
    assert scalars(tmp_path) == {
        "train/loss": [10],
        "eval/cer": [12],
        "eval/wer": [12],
        "eval/accuracy": [12],
        "eval/loss": [12],
    }
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 12, "cer": 0.5, "loss": 2.0}


def describe(step: int, *, is_blank: bool) -> list[tuple[int, str]]:
    state, throughput = TrainingState(), Throughput()
    state.step, state.batches_per_epoch = step, 100
    result = replace(RESULT, is_blank=is_blank)
    record = metrics_record(result, state, throughput, 61.0, 1, {}, True)
    return list(run_log.describe(record, result, Training()))


def test_only_blanks_are_normal_at_first_and_a_warning_later():
    [(level, line)] = describe(5000, is_blank=False)
    assert level == logging.INFO and line.startswith("epoch 50  step 5000  loss")
    assert "CER 50.00 %" in line and line.endswith("1:01  best")
    _, (level, line) = describe(run_log.BLANK_STEPS, is_blank=True)
    assert level == logging.INFO and "normal in the first 1,000 steps" in line
    _, (level, line) = describe(run_log.BLANK_STEPS + 1, is_blank=True)
    assert level == logging.WARNING and "after 1,001 steps" in line and "training.learning_rate=0.001" in line


def test_before_the_first_step_only_what_was_evaluated_is_recorded_and_described():
    record = metrics_record(RESULT, TrainingState(), Throughput(), 9.0, 1, {}, True)
    assert not record.keys() & {"train_loss", "images_per_second", "data_wait", "padding"}
    [(_, line)] = run_log.describe(record, RESULT, Training())
    assert line == "epoch 0  step 0  CER 50.00 %  WER 100.00 %  exact 0.00 %  0:09  best"


@pytest.mark.parametrize(
    "text",
    [
        "<b>bold</b> &amp; <script>alert(1)</script>",
        "**a** _b_ `c` ~~d~~ # e",
        "[link](http://example.org) ![image](x.png) <http://example.org>",
        "a|b \\| c",
        "1. first",
        "  two  spaces ",
        "snake_case_word __init__",
        "&#42; &lt;",
        "naïve ſs 漢字 שלום e\u0301",
        "\x02wzxhzdk:0\x03",
        "",
    ],
)
def test_tensorboard_shows_labels_and_transcriptions_literally(text):
    from tensorboard.plugin_util import markdown_to_safe_html

    page = markdown_to_safe_html(_table([ValidationExample(torch.zeros(1), text, f"{text}x")]))
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", rows[-1], re.DOTALL)]
    assert not re.search(r"<(?!/?(table|thead|tbody|tr|th|td)>)", page)
    if "\x02" not in text:
        assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in cells] == ["0", text, f"{text}x"]


def test_an_unknown_unit_is_shown_as_a_replacement_character():
    table = _table([ValidationExample(torch.zeros(1), f"a{UNKNOWN_UNIT}b", "ab")])
    assert "| a\N{REPLACEMENT CHARACTER}b | ab |" in table


def test_records_after_the_step_of_the_checkpoint_are_removed(tmp_path):
    log = RunLog(tmp_path)
    log.open(TrainingState())
    for step in (5, 10, 15):
        log.scalars(step, {"train/loss": 1.0})
        log.evaluation({"step": step, "cer": 1.0}, RESULT)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')
    again = RunLog(tmp_path)
    again.open(TrainingState(step=12, evaluated_at=10))
    again.evaluation({"step": 15, "cer": 0.5}, RESULT)
    again.close()
    assert [(line["step"], line["cer"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (5, 1.0),
        (10, 1.0),
        (15, 0.5),
    ]
    assert scalars(tmp_path)["eval/cer"] == [5, 10, 15]


def test_an_evaluation_after_a_checkpoint_of_the_same_step_is_recorded_once(tmp_path):
    log = RunLog(tmp_path)
    log.open(TrainingState())
    for step in (5, 10):
        log.evaluation({"step": step}, RESULT)
    log.close()
    # The checkpoint was saved before the evaluation of step 10, which the resumed run repeats.
    again = RunLog(tmp_path)
    again.open(TrainingState(step=10, evaluated_at=5))
    again.evaluation({"step": 10}, RESULT)
    again.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [5, 10]


def test_a_full_disk_raises_an_error_in_the_writing_thread(tmp_path):
    """The log is /dev/full. With a writer in another thread this test would hang."""
    log = RunLog(tmp_path)
    log.open(TrainingState())
    writer = log._events._py_recordio_writer
    writer.close()
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        writer._writer = full
        for step in range(100_000):
            log.scalars(step, {"train/loss": 1.0})
