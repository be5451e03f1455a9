"""All faults of a data set are found, none is invented, and the rows that are left out are those of training."""

import io
import json
from collections import Counter

import numpy as np
import pytest
import ray
from PIL import Image

from raycrnn import config, storage
from raycrnn.checking import contact_sheet, printing, report
from raycrnn.checking.run import check
from raycrnn.data import labelled_csvs
from raycrnn.data.augment import Augmenter
from raycrnn.data.image import MIN_WIDTH, prepare
from raycrnn.data.packed_images import PackedImagesWriter
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import batches, training_data
from tests.checking.faults import FINDINGS, TEXTS, plant
from tests.conftest import draw, words, write_set
from tests.training.test_initial_model import save


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The configuration of a data set with every fault."""
    return plant(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def checked(planted):
    return check(config.load(planted))


def test_every_planted_fault_is_found_and_no_other(checked):
    found = Counter()
    for finding in checked[0].findings:
        found[finding.kind, finding.data_set] += finding.rows
    assert found == FINDINGS


def test_a_clean_set_has_no_findings(tmp_path):
    texts = [f"{one}{other}" for one in "abcdefgh" for other in "hgfedcba"]
    configuration = config.parse({"data": {"csv_files_train": str(write_set(tmp_path, texts))}})
    result, _ = check(configuration)
    assert result.findings == [] and not result.costs_samples and result.rejections == []
    assert printing.to_text(result).endswith("Result: nothing was found.")


def test_units_are_those_with_which_training_would_start_from_a_model(tmp_path):
    model = save(tmp_path / "model", tuple("abcdefghé"))
    tree = {"data": {"csv_files_train": str(write_set(tmp_path, ["ab", "xa"] * 40))}}

    def check_with(which: str) -> tuple[list[str], int]:
        own = [f"training.initial_model={model}", f"training.initial_alphabet={which}"]
        result, sets = check(config.parse(tree, own))
        assert sets[0].configuration.image.input_shape == (48, 300)
        return result.as_json()["units"]["alphabet"], len(result.rejections)

    assert check_with("union") == ([*"abcdefghxé"], 0)
    assert check_with("new") == ([*"abx"], 0)
    assert check_with("same") == ([*"abcdefghé"], 40)


def rejected_by_training(configuration, output) -> list[tuple[str, int, str, str]]:
    """Return the rows that a training leaves out at its start, and while it decodes the images of an epoch."""
    data = training_data.put(labelled_csvs.read(configuration), configuration, storage.Directory(str(output)))
    found = []
    for name, samples in data.sets.items():
        make_spec = batches.train_batch_spec if name == "train" else batches.eval_batch_spec
        spec = make_spec(configuration, samples, 0, 1)
        found += [(each.csv, each.line, each.path, each.reason) for each in samples.rejections]
        for block in batches.make_block(spec, 0, spec.batches_per_epoch)["rejected"].to_pylist():
            # The path of a row that is rejected while decoding is the resolved one.
            found += [(csv, line, reason) for _, csv, line, _, reason, _ in json.loads(block)]
    return found


@pytest.mark.ray
def test_the_rows_that_are_left_out_are_those_of_training(local_ray, planted, checked, tmp_path):
    by_training = rejected_by_training(config.load(planted), tmp_path / "output")
    by_check = [(each.csv, each.line, each.reason) for each in checked[0].rejections]
    assert sorted((csv, line, reason) for csv, line, *_, reason in by_training) == by_check


@pytest.mark.ray
def test_random_rows_are_judged_as_in_training(local_ray, tmp_path):
    """Labels of random lengths on images of random sizes, some of which are cut off or turned."""
    random = np.random.default_rng(1)
    rows = []
    for number, text in enumerate(words(150)):
        label = text * int(random.integers(0, 6))
        size = (int(random.integers(1, 300)), int(random.integers(1, 90)))
        file = tmp_path / f"{number}.{random.choice(['png', 'jpg', 'webp', 'tif'])}"
        exif = Image.Exif()
        exif[0x0112] = int(random.choice([1, 6]))
        Image.fromarray(random.integers(0, 256, size[::-1], np.uint8)).save(file, exif=exif)
        if random.random() < 0.2:
            file.write_bytes(file.read_bytes()[: int(random.integers(0, 2000))])
        rows.append(f"{file.name};{label}")
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    configuration = config.parse({"data": {"csv_files_train": str(tmp_path / "rows.csv"), "max_rejected": 0.99}})
    result, _ = check(configuration)
    by_training = rejected_by_training(configuration, tmp_path / "output")
    assert len({each.reason for each in result.rejections}) >= 3
    expected = sorted((csv, line, reason) for csv, line, *_, reason in by_training)
    assert [(each.csv, each.line, each.reason) for each in result.rejections] == expected
    assert ray.is_initialized()


def test_the_text_has_all_findings_and_no_control_characters(checked):
    text = printing.to_text(checked[0])
    assert text.startswith("Rows: 77 of 88 training rows and 25 of 26 evaluation rows would be used\n")
    assert all(finding.remedy.split()[0] in text for finding in checked[0].findings)
    assert not set(text) & {"\x07", "\u200b", "\ufeff"}
    assert "<U+0007>" in text and "<U+FEFF>images/bom.png" in text
    assert text.endswith("Result: 11 findings cost samples; 19 findings to look at.")
    examples = [line for line in text.splitlines() if line.startswith("      ") and ".csv, line" in line]
    assert all(len(line) <= 80 for line in text.splitlines() if line not in examples)


def test_lines_that_stand_upright_are_measured_along_their_text(tmp_path):
    texts = [f"{one}{other} cab{one}" for one in "abcdefgh" for other in "hgfedcba"]
    csv = write_set(tmp_path, texts)
    for path in (tmp_path / "images").iterdir():
        with Image.open(path) as picture:
            picture.transpose(Image.Transpose.ROTATE_270).save(path)
    result, _ = check(config.parse({"data": {"csv_files_train": str(csv), "line_orientation": "top_to_bottom"}}))
    assert result.findings == []
    result, _ = check(config.parse({"data": {"csv_files_train": str(csv), "max_rejected": 1}}))
    assert {finding.kind for finding in result.findings} == {"label too long"}
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(path)
    result, _ = check(config.parse({"data": {"csv_files_train": str(csv), "line_orientation": "top_to_bottom"}}))
    assert [finding.kind for finding in result.findings] == ["label too long"]


def test_a_packed_data_set_is_checked_like_its_csv(tmp_path):
    folder = tmp_path / "packed"
    folder.mkdir()
    with PackedImagesWriter(folder) as writer:
        for number, text in enumerate(TEXTS[:30]):
            file = io.BytesIO()
            draw(text).save(file, "PNG")
            data = file.getvalue() if number else file.getvalue()[:200]
            writer.add(data, text, f"{number}.png", draw(text).size)
    result, _ = check(config.parse({"data": {"csv_files_train": str(folder)}}))
    [rejection] = result.rejections
    assert (rejection.path, rejection.reason) == ("0.png", "damaged image")
    assert {finding.kind for finding in result.findings} == {"damaged image", "common ending"}


def test_that_training_would_not_start_is_said(tmp_path):
    csv = write_set(tmp_path, words(20))
    csv.write_text(csv.read_text() + "gone.png;ab\n")
    result, _ = check(config.parse({"data": {"csv_files_train": str(csv)}}))
    assert "Training would not start: 4.8% of the training rows are left out" in printing.to_text(result)


def test_the_json_object_has_everything(checked):
    result = checked[0]
    tree = json.loads(json.dumps(result.as_json()))
    assert len(tree["findings"]) == len(result.findings) and len(tree["left_out"]) == 12
    assert tree["samples"]["train"] == {"rows": 88, "used": 77}
    assert tree["units"]["counts"]["train"]["а"] == 1
    assert {each["name"] for each in tree["sizes"]["histograms"]} == {
        "width in pixels",
        "height in pixels",
        "width / height",
    }
    assert tree["costs_samples"] is True


def test_the_page_has_all_findings_with_images_and_requests_nothing(checked):
    page = report.render(checked[0])
    for finding in checked[0].findings:
        assert finding.remedy.replace("'", "&#39;") in page
    assert page.count('<img src="data:image/webp') >= 20
    assert "http" not in page.replace("data:image", "")
    assert "\u200b" not in page and "\x07" not in page


def test_hostile_labels_and_paths_are_escaped_on_the_page(tmp_path):
    hostile = "<script>alert(1)</script>"
    (tmp_path / "<b>").mkdir()
    rows = []
    for number in range(12):
        draw("ab").resize((400, 32 + number)).save(tmp_path / "<b>" / f"{number}.png")
        rows.append(f"<b>/{number}.png;{hostile}{'x' * (number % 2)}  \x1b[31m\u202e")
    (tmp_path / "rows.csv").write_text("\n".join([*rows, f"{hostile}.png;ab"]), encoding="utf-8")
    result, _ = check(config.parse({"data": {"csv_files_train": str(tmp_path / "rows.csv")}}))
    page = report.render(result)
    assert "<script" not in page and "<b>/" not in page and "&lt;script&gt;" in page
    assert not {"\x1b", "\u202e"} & set(page + printing.to_text(result))


def test_the_sheet_shows_images_unchanged_and_as_in_early_and_later_epochs(tmp_path):
    csv = write_set(tmp_path, TEXTS[:5])
    configuration = config.parse({"data": {"csv_files_train": str(csv)}})
    _, [train] = check(configuration)
    sheet = np.asarray(contact_sheet.draw(train).convert("L"))
    shape = configuration.image.input_shape
    data = (tmp_path / "images" / "labels_0.png").read_bytes()
    augmenter = Augmenter(configuration.augmentation, 1, configuration.training.seed)
    versions = [prepare(data, shape, 1)]
    versions += [prepare(data, shape, 1, augmenter.for_sample(epoch, 0)) for epoch in (0, 1, 15)]
    top, left = contact_sheet.MARGIN, contact_sheet.MARGIN
    for version in versions:
        height, width, _ = version.shape
        assert np.abs(sheet[top : top + height, left : left + width] - version[:, :, 0].astype(int)).max() <= 1
        top += height + contact_sheet.GAP


def test_a_set_without_usable_rows_is_described_but_not_drawn(tmp_path):
    Image.new("L", (MIN_WIDTH, 32)).save(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text("gone.png;ab\na.png;abcdefgh\n")
    result, [train] = check(config.parse({"data": {"csv_files_train": str(tmp_path / "rows.csv")}}))
    assert [finding.kind for finding in result.findings] == ["no such file", "label too long"]
    assert "Training would not start: 100.0%" in printing.to_text(result)
    report.render(result)
    with pytest.raises(RaycrnnError, match="no image can be used"):
        contact_sheet.draw(train)
