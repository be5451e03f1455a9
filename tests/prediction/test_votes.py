"""Several models that vote in the verbs: here, through Ray, and in the service."""

import csv
import io
import json

import pytest

from raycrnn import Voter
from raycrnn.evaluate import Evaluate
from raycrnn.export import Export
from raycrnn.model import model_files
from raycrnn.predict import Predict
from raycrnn.prediction.job import make_job
from raycrnn.prediction.pipeline import Executor
from raycrnn.serving.service import Service
from tests.conftest import draw
from tests.model.test_voter import recognizer
from tests.serving.samples import png, serving


@pytest.fixture
def models(tmp_path) -> list[str]:
    """Two models with different alphabets, sizes and channels, and a directory that lists both."""
    recognizer(1, "abcx").save(tmp_path / "all" / "first")
    recognizer(2, "cbay", image={"input_shape": [48, 512], "input_channels": 3}).save(tmp_path / "all" / "second")
    (tmp_path / "all" / "models.json").write_text(json.dumps({"models": ["first", "second"]}))
    return [str(tmp_path / "all" / name) for name in ("first", "second")]


def predicted(capsys, *arguments: str) -> list[list[str]]:
    assert Predict.call(list(arguments), "predict") == 0
    return list(csv.reader(io.StringIO(capsys.readouterr().out)))


def test_predict_takes_several_models_or_a_directory_of_several(models, images, tmp_path, capsys):
    found = predicted(capsys, *models, str(images), "decoding.num_beam_paths=2")
    assert found == predicted(capsys, str(tmp_path / "all"), str(images), "decoding.num_beam_paths=2")
    expected = Voter.load(models, "cpu", ["decoding.num_beam_paths=2"])(
        [images / f"{number}.png" for number in range(4)]
    )
    assert [row[1] for row in found[1:]] == [each.text for each in expected]
    assert [float(row[2]) for row in found[1:]] == pytest.approx([each.score for each in expected], abs=1e-3)
    assert [row[4] for row in found[1:]] == [each.alternatives[1].text for each in expected]


def test_an_output_in_one_of_the_models_is_refused(models, images, capsys):
    assert Predict.call([*models, str(images), "-o", f"{models[1]}/lines.csv"], "predict") == 2
    assert "is in the model directory" in capsys.readouterr().err


def test_a_run_is_only_resumed_with_the_same_models(models, tmp_path):
    digests = model_files.file_digests(models)
    assert digests == model_files.file_digests(tmp_path / "all")
    assert digests != model_files.file_digests(models[::-1])
    assert {name.partition("/")[0] for name in digests} == {"1", "2"}


@pytest.mark.ray
def test_ray_reads_as_the_command_does(local_ray, models, images):
    paths = [str(images / f"{number}.png") for number in range(4)] + [str(images / "gone.png")]
    configurations = model_files.read_configurations(models)
    job = make_job(models, configurations, (), model_files.file_digests(models), spans=True)
    assert len(job.more_images) == 1
    with Executor() as executor:
        found = list(executor.transcribe(job, paths))
    assert found[4].rejected is not None
    for result, expected in zip(found, Voter.load(models, "cpu")(paths[:4]), strict=False):
        assert result.transcription.text == expected.text
        assert result.transcription.confidence == pytest.approx(expected.confidence, abs=1e-3)
        assert [unit.left for unit in result.transcription.units] == [unit.left for unit in expected.units]


def test_evaluate_compares_a_vote_with_one_model(models, images, capsys):
    (images.parent / "labels.csv").write_text("images/0.png;abc\nimages/1.png;ba\nimages/2.png;cab\n")
    arguments = [*models, str(images.parent / "labels.csv"), "--against", models[0], "--json"]
    assert Evaluate.call(arguments, "evaluate") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["samples"] == 3
    assert result["against"]["model"] == models[0]
    report = images.parent / "report"
    arguments = [str(images.parent / "all"), str(images.parent / "labels.csv"), "--report", str(report)]
    assert Evaluate.call(arguments, "evaluate") == 0
    assert "2 models, which vote" in (report / "index.html").read_text(encoding="utf-8")


def test_the_service_votes_and_loads_a_new_model_of_the_directory(models, tmp_path, monkeypatch):
    monkeypatch.setattr("raycrnn.serving.service.SECONDS_BETWEEN_CHECKS", 0.1)
    line = draw("abba")
    with serving(Service(str(tmp_path / "all"))) as client:
        answer = client.post("/predict?spans=true&n_best=2", content=png(line)).json()
        expected = Voter.load(models, "cpu")(line, n_best=2)[0]
        assert answer["text"] == expected.text
        assert answer["alternatives"][0]["text"] == expected.alternatives[1].text
        assert [unit["left"] for unit in answer["units"]] == [unit.left for unit in expected.units]
        description = client.get("/model").json()
        assert description["alphabet"] == list("abcxy")
        assert description["version"] == model_files.version_of(models)
        recognizer(5, "cbay", image={"input_shape": [48, 512], "input_channels": 3}).save(tmp_path / "all" / "second")
        for _ in range(200):
            if client.get("/health").json()["model"] != description["version"]:
                break
            client.post("/predict", content=png(line)).raise_for_status()
        assert client.get("/health").json()["model"] == model_files.version_of(models)


def test_export_asks_for_one_model(models, tmp_path, capsys):
    assert Export.call([str(tmp_path / "all"), str(tmp_path / "model.onnx")], "export") == 2
    assert "otherwise name one of the model directories in it" in capsys.readouterr().err
