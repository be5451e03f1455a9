"""The public API: what `import raycrnn` offers, without importing torch or Ray, and with types."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import raycrnn

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_the_classes_of_the_model_package():
    from raycrnn.model.recognizer import Recognizer
    from raycrnn.model.transcription import Transcription
    from raycrnn.model.voter import Voter

    assert set(raycrnn.__all__) == {"Recognizer", "Transcription", "Voter", "__version__"}
    assert raycrnn.Recognizer is Recognizer
    assert raycrnn.Transcription is Transcription
    assert raycrnn.Voter is Voter
    assert set(raycrnn.__all__) <= set(dir(raycrnn))
    assert all(getattr(raycrnn, name).__doc__ for name in ("Recognizer", "Transcription", "Voter"))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'raycrnn' has no attribute 'Recogniser'"):
        _ = raycrnn.Recogniser
    with pytest.raises(ImportError):
        exec("from raycrnn import Recogniser")


def test_importing_raycrnn_imports_neither_torch_nor_ray():
    program = "import raycrnn, sys; dir(raycrnn); sys.exit(' '.join({'torch', 'ray', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_the_package_is_marked_as_typed():
    assert (Path(raycrnn.__file__).parent / "py.typed").exists()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert "py.typed" in setup["options.package_data"]["raycrnn"]


@pytest.mark.extended
def test_a_type_checker_sees_the_public_classes(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        "from raycrnn import Recognizer, Transcription\n"
        "def texts(transcriptions: list[Transcription]) -> list[str]:\n"
        "    return [transcription.text for transcription in transcriptions]\n"
        'texts(Recognizer.load("output/model")(["line.png"]))\n'
        'reveal_type(Recognizer.load("output/model"))\n'
    )
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", f"--cache-dir={tmp_path}/cache"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)], cwd=ROOT, capture_output=True, text=True
    )
    assert 'Revealed type is "raycrnn.model.recognizer.Recognizer"' in done.stdout
    assert "error:" not in done.stdout
