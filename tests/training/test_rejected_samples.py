"""The rejected samples of a run, exchanged between its workers."""

from dataclasses import replace

import pytest

from raycrnn import config
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.rejections import Rejection
from raycrnn.errors import RaycrnnError
from raycrnn.ingest.sample_table import SampleTable
from raycrnn.ingest.training_data import TrainingData
from raycrnn.training import collectives
from raycrnn.training.rejected_samples import RejectedSamples

pytestmark = pytest.mark.ray


def rejection(line: int) -> Rejection:
    return Rejection("labels.csv", line, f"{line}.png", "damaged image", "truncated")


def rejected_samples(max_rejected: float) -> RejectedSamples:
    """Return the samples of a run on ten rows of which the first was rejected before training."""
    settings = config.Data(csv_files_train="labels.csv", max_rejected=max_rejected)
    train = SampleTable(None, ("labels.csv",), 10, 9, (9,), (False,), 100.0, 1, {}, (rejection(1),), ())
    return RejectedSamples(TrainingData(Alphabet(("a",)), train, None, {}, {}), settings)


def test_new_rejections_are_those_that_were_not_shared():
    samples = rejected_samples(0.5)
    own = {1: rejection(2)}
    assert not samples.has_new("train", {})
    assert samples.has_new("train", own)
    samples.share("train", own)
    assert not samples.has_new("train", own)
    assert samples.has_new("train", {**own, 2: rejection(3)})


def test_the_rejections_of_all_workers_are_counted_and_written_once(tmp_path, monkeypatch):
    samples = rejected_samples(0.5)
    # Another worker rejected one sample that this worker rejected too, and one more.
    monkeypatch.setattr(collectives, "gather", lambda own: [own, {1: rejection(2), 4: rejection(5)}])
    samples.share("train", {1: rejection(2)})
    assert samples.counts() == {"train": 2, "eval": 0}
    assert samples.total() == 3
    samples.write(tmp_path / "rejected.csv")
    lines = (tmp_path / "rejected.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["1", "2", "5"]


def test_a_sample_that_was_rejected_before_and_after_a_resume_counts_once(tmp_path):
    samples = rejected_samples(0.1)
    samples.while_training["train"][0] = replace(rejection(1), reason="cannot be read")
    samples.share("train", {})
    assert samples.total() == 1
    samples.write(tmp_path / "rejected.csv")
    assert len((tmp_path / "rejected.csv").read_text().splitlines()) == 2


def test_samples_rejected_before_training_count_towards_the_limit():
    samples = rejected_samples(0.1)
    with pytest.raises(RaycrnnError, match="train set: 2 of 10 samples"):
        samples.share("train", {1: rejection(2)})
