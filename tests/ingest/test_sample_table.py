"""Sample tables: which rows are rejected, and when there are too many of them."""

import pytest
import ray
from PIL import Image

from raycrnn import config, storage
from raycrnn.data import csv_files, labelled_csvs, rejections
from raycrnn.data.alphabet import Alphabet
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.ingest import image_sizes, sample_table, training_data
from tests.conftest import words, write_set
from tests.ingest.test_batches import put, settings

pytestmark = pytest.mark.ray


def test_too_many_unusable_rows_fail_with_reasons_and_remedies(local_ray, tmp_path):
    csv = write_set(tmp_path, words(10))
    csv.write_text(csv.read_text() + "gone.png;abc\nimages/labels_0.png;xyz\n")
    configuration = settings(csv)
    samples = put(configuration)
    with pytest.raises(RaycrnnError) as raised:
        rejections.check_rejections("train", samples.rejections, samples.rows, configuration.data)
    message = str(raised.value)
    assert "2 of 12 samples" in message
    assert f"{csv}, line 11: gone.png" in message
    assert rejections.REMEDIES["unknown unit"] in message
    tolerant = configuration.data.model_copy(update={"max_rejected": 0.2})
    rejections.check_rejections("train", samples.rejections, samples.rows, tolerant)


def test_pages_and_lines_that_are_compressed_are_counted(local_ray, tmp_path):
    csv = write_set(tmp_path, words(10))
    for name, size in {"page": (60, 90), "letter": (20, 30), "wide": (1300, 32)}.items():
        Image.new("L", size).save(tmp_path / f"{name}.png")
    csv.write_text(csv.read_text() + "page.png;abca\nletter.png;a\nwide.png;abc\n")
    page, wide = put(settings(csv)).warnings
    assert page.startswith("train set: 1 of 13 images are higher than wide")
    assert page.endswith("for example page.png (60 × 90 pixels)")
    assert wide.startswith("train set: 1 of 13 images are wider than image.input_shape=[32, 1024] allows")
    assert wide.endswith("for example wide.png (1,300 × 32 pixels)")


def test_a_set_of_pages_is_refused_with_the_warning_that_explains_it(local_ray, tmp_path, caplog):
    Image.new("L", (90, 120)).save(tmp_path / "page.png")
    (tmp_path / "train.csv").write_text(f"page.png;{'abc' * 20}\n")
    configuration = settings(tmp_path / "train.csv")
    csvs = labelled_csvs.read(configuration)
    with pytest.raises(RaycrnnError, match="label too long"):
        training_data.put(csvs, configuration, storage.Directory(str(tmp_path / "output")))
    assert "cut the lines out of pages" in caplog.text


def test_tasks_measure_images_with_the_same_result(local_ray, tmp_path, monkeypatch):
    configuration = settings(write_set(tmp_path, words(25)))
    alone = ray.get(put(configuration).table)
    monkeypatch.setattr(image_sizes, "ROWS_PER_MEASURING_TASK", 10)
    assert ray.get(put(configuration).table).equals(alone)


def test_csvs_without_rows_or_labels_are_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("\n\n")
    with pytest.raises(UsageError, match="no rows"):
        csv_files.read_labelled_csvs([str(tmp_path / "empty.csv")], config.Data(csv_files_train="x"))
    (tmp_path / "bare.csv").write_text("a.png\nb.png\n")
    data = config.Data(csv_files_train="x")
    with pytest.raises(UsageError, match="no row has a label"):
        csv_files.read_labelled_csvs([str(tmp_path / "bare.csv")], data)
    (tmp_path / "blank.csv").write_text("a.png;\nb.png;||\n")
    with pytest.raises(UsageError, match="all labels are empty"):
        labelled_csvs.read(settings(tmp_path / "blank.csv"))


def test_rows_that_are_left_out_add_no_units_to_the_alphabet(local_ray, tmp_path):
    csv = write_set(tmp_path, ["ab", "ba", "c" * 200])
    csv.write_text(f"gone.png;x\n{csv.read_text()}images/labels_0.png;\n")
    files = csv_files.read_labelled_csvs([str(csv)], settings(csv).data)
    samples, alphabet = sample_table.put_samples(files, None, settings(csv))
    assert samples.usable == 2 and alphabet.units == ("a", "b")
    assert ray.get(samples.table)["codes"].to_pylist() == [[0, 1], [1, 0]]


def test_codes_follow_the_image_from_left_to_right(local_ray, tmp_path):
    csv = write_set(tmp_path, ["אב 12", "בא"])
    configuration = settings(csv)
    for name, direction, codes in (
        ("auto", "rtl", [[1, 2, 0, 4, 3], [3, 4]]),
        ("visual", "visual", [[3, 4, 0, 1, 2], [4, 3]]),
    ):
        data = configuration.data.model_copy(update={"text_direction": name})
        csvs = labelled_csvs.read(configuration.model_copy(update={"data": data}))
        assert csvs.text_direction == direction
        samples, alphabet = sample_table.put_samples(csvs.train, None, configuration, csvs.text_direction)
        assert alphabet == Alphabet((" ", "1", "2", "א", "ב"), direction)
        assert ray.get(samples.table)["codes"].to_pylist() == codes


def test_units_that_the_alphabet_lacks_in_evaluation_rows_are_reported(local_ray, tmp_path):
    files = csv_files.read_labelled_csvs([str(write_set(tmp_path, ["ab", "aAA", "AÉ"]))], settings("x").data)
    samples, _ = sample_table.put_samples(files, Alphabet(("a", "b")), settings("x"), training=False)
    [warning] = samples.warnings
    assert warning.startswith("2 of 3 evaluation rows have units that the alphabet lacks ('A', 'É')")
    assert sample_table.put_samples(files, Alphabet(tuple("abAÉ")), settings("x"), training=False)[0].warnings == ()
