"""Configurations from files and from the command line."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.config import Configuration, messages
from raycrnn.errors import UsageError
from tests.config.samples import FLAT, LEAST, leaf, refusal


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=3e-4", 3e-4),
        ("training.learning_rate=1", 1.0),
        ("training.n_epochs=1e3", 1000),
        ("training.n_epochs=12", 12),
        ("training.max_minutes=1.5", 1.5),
        ("training.max_minutes=null", None),
        ("training.max_minutes=None", None),
        ("training.gradient_clip=None", None),
        ("training.optimizer=rms", "rms"),
        ('training.optimizer="rms"', "rms"),
        ("restore_model=true", True),
        ("restore_model=True", True),
        ("augmentation.data_augmentation=False", False),
        ("augmentation.padding.strength=0", 0.0),
        ("image.input_shape=[64,256]", (64, 256)),
        ("model.cnn_channels=[1, 2, 3, 4, 5, 6, 7]", (1, 2, 3, 4, 5, 6, 7)),
        ("data.csv_files_eval=a.csv", ("a.csv",)),
        ('data.csv_files_eval=["a.csv", "b;=.csv"]', ("a.csv", "b;=.csv")),
        ("data.csv_files_eval=[]", ()),
        ("data.csv_files_eval=2024", ("2024",)),
        ("data.lookup_alphabet_file=7", "7"),
        ("data.lookup_alphabet_file=null", None),
        ("data.csv_delimiter=1", "1"),
        ('data.csv_delimiter="\\t"', "\t"),
        ("data.csv_delimiter=\\t", "\t"),
        ("data.csv_delimiter=tab", "\t"),
        ("output_model_dir=2024", "2024"),
        ("output_model_dir=1e3", "1e3"),
        ("output_model_dir=007", "007"),
        ("output_model_dir=a=b", "a=b"),
        ("output_model_dir=null", "null"),
        ("output_model_dir=None", "None"),
        ("output_model_dir=true", "true"),
        ('output_model_dir="quoted"', "quoted"),
        ("output_model_dir=s3://bucket/run 1", "s3://bucket/run 1"),
        ("cluster.use_gpu=auto", "auto"),
        ("cluster.use_gpu=false", False),
        ("cluster.cpus_per_worker=auto", "auto"),
        ("cluster.cpus_per_worker=0.5", 0.5),
    ],
)
def test_an_override_is_parsed_as_json_if_the_key_accepts_that_and_else_as_text(override, value):
    found = leaf(config.parse(LEAST, [override]), override.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_of_a_key_wins():
    assert config.parse(LEAST, ["training.seed=1", "training.seed=2"]).training.seed == 2


def test_an_override_can_replace_a_group():
    tree = {**LEAST, "model": {"size": "half", "lstm_layers": 1}}
    assert config.parse(tree, ['model={"size": "quarter"}']).model.model_dump() == {
        **config.Model().model_dump(),
        "size": "quarter",
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("n_epochs", "key=value"),
        ("", "key=value"),
        ("data.csv_files_train.0=x", "csv_files_train is not a group"),
        ("data.csv_files_train.0.x=1", "csv_files_train is not a group"),
    ],
)
def test_an_override_that_sets_no_key_is_refused(override, expected):
    assert expected in refusal(override)


def test_parsing_does_not_change_its_argument():
    tree = {**copy.deepcopy(FLAT), "augmentation": {"padding": {"strength": 0.1}}}
    before = copy.deepcopy(tree)
    found = config.parse(tree, ["augmentation.padding.strength=0.2", "training.n_epochs=3"])
    assert found.augmentation.padding.strength == 0.2
    assert tree == before


def test_a_file_is_read_with_or_without_byte_order_mark(tmp_path):
    # PowerShell writes UTF-16.
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / f"{encoding}.json"
        path.write_text(json.dumps(LEAST), encoding=encoding)
        assert config.load(path) == config.parse(LEAST)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"data": {"csv_files_train": "a"},\n "data": {}}', "'data' is given twice"),
        (b'{"data": {"csv_files_train": "a", "csv_files_train": "b"}}', "'csv_files_train' is given twice"),
        (b'{\n"a": 1,\n}', "line 3: not JSON"),
        (b'{\n\n"a": nope\n}', "line 3: not JSON"),
        (
            '{\n\xa0 "a": 1}'.encode(),
            "in double quotes; found U+00A0 NO-BREAK SPACE",
        ),
        ("{“a”: 1}".encode(), "found U+201C LEFT DOUBLE QUOTATION MARK"),
        (b"\xff\xfe{\0\0", "cannot be read as utf-16"),
        (b"", "line 1: not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"a": "\xff"}', "cannot be read"),
        (b"[" * 100_000, "recursion"),
        (b'{"training": {"seed": ' + b"1" * 5000 + b"}}", "digits"),
    ],
)
def test_the_error_of_an_invalid_file_names_it(tmp_path, content, expected):
    path = tmp_path / "wrong.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        config.load(path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


def test_the_error_of_a_missing_file_or_a_folder_names_it(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.json: no such file"):
        config.load(tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match="cannot be read"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        LEAST,
        FLAT,
        {**LEAST, "model": {"cnn_channels": [1, 2, 3, 4, 5, 6, 7]}, "training": {"schedule": "constant"}},
        {**LEAST, "training": {"learning_decay_rate": 0.5, "max_minutes": 3}, "cluster": {"use_gpu": True}},
    ],
)
def test_a_configuration_can_be_converted_to_json_and_back(tmp_path, tree):
    first = config.parse(tree)
    path = tmp_path / "config.json"
    path.write_text(first.model_dump_json(), encoding="utf-8")
    assert config.load(path) == first


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 2**40),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["full", "adam", "auto", "utf-8", ";", "beam", "NFC"]),
)
OBJECTS = st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
VALUES = SCALARS | st.lists(SCALARS, max_size=7) | OBJECTS
KEYS = st.sampled_from([*config.fields(), *sorted(messages._groups()), *config.GROUP_OF_FLAT_KEY])


@given(st.lists(st.tuples(KEYS | st.text(max_size=8), VALUES), max_size=4))
def test_any_input_gives_a_configuration_or_a_usage_error(pairs):
    tree = copy.deepcopy(LEAST)
    for key, value in pairs:
        *groups, name = key.split(".")
        branch = tree
        for group in groups:
            child = branch.setdefault(group, {})
            branch = child if isinstance(child, dict) else branch
        branch[name] = value
    try:
        found = config.parse(tree)
    except UsageError as error:
        assert len(str(error)) > len("configuration: ")
    else:
        assert Configuration.model_validate_json(found.model_dump_json()) == found


@given(KEYS | st.text(max_size=8), st.text(max_size=12) | VALUES.map(json.dumps))
def test_any_override_gives_a_configuration_or_a_usage_error(key, text):
    try:
        found = config.parse(LEAST, [f"{key}={text}"])
    except UsageError as error:
        assert str(error)
    else:
        assert Configuration.model_validate_json(found.model_dump_json()) == found


@given(st.text(min_size=1).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_any_quoted_text_can_name_an_output_directory(text):
    assert config.parse(LEAST, ["output_model_dir=" + json.dumps(text)]).output_model_dir == text
