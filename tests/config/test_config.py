"""The configuration: what is read, what is refused, and the messages."""

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raycrnn import config
from raycrnn.config import Configuration, messages
from raycrnn.errors import UsageError

LEAST = {"data": {"csv_files_train": ["train.csv"]}}

FLAT = {
    "csv_files_train": ["a.csv", "b.csv"],
    "csv_files_eval": "c.csv",
    "output_model_dir": "runs/first",
    "num_gpus": 2,
    "lookup_alphabet_file": "lookup_digits",
    "input_shape": [48, 304],
    "input_channels": 3,
    "num_beam_paths": 2,
    "training_params": {
        "learning_rate": 1e-4,
        "learning_decay_rate": 0.9,
        "learning_decay_steps": 10000,
        "save_interval": 1e4,
        "n_epochs": 50,
        "train_batch_size": 128,
        "eval_batch_size": 32,
        "optimizer": "adam",
        "evaluate_every_epoch": 5,
    },
    "restore_model": True,
    "csv_delimiter": ",",
    "string_split_delimiter": "^",
    "data_augmentation": False,
    "data_augmentation_max_rotation": 0.2,
    "input_data_n_parallel_calls": 4,
    "keep_prob": 0.7,
}
"""A configuration of tf-crnn with all of its keys, each with a value other than the default of raycrnn."""

LEAF_OF_FLAT_KEY = {
    "csv_files_train": "data.csv_files_train",
    "csv_files_eval": "data.csv_files_eval",
    "output_model_dir": "output_model_dir",
    "num_gpus": "cluster.num_gpus",
    "lookup_alphabet_file": "data.lookup_alphabet_file",
    "input_shape": "image.input_shape",
    "input_channels": "image.input_channels",
    "num_beam_paths": "decoding.num_beam_paths",
    "learning_rate": "training.learning_rate",
    "learning_decay_rate": "training.learning_decay_rate",
    "learning_decay_steps": "training.learning_decay_steps",
    "save_interval": "training.save_interval",
    "n_epochs": "training.n_epochs",
    "train_batch_size": "training.train_batch_size",
    "eval_batch_size": "training.eval_batch_size",
    "optimizer": "training.optimizer",
    "evaluate_every_epoch": "training.evaluate_every_epoch",
    "restore_model": "restore_model",
    "csv_delimiter": "data.csv_delimiter",
    "string_split_delimiter": "data.string_split_delimiter",
    "data_augmentation": "augmentation.data_augmentation",
    "data_augmentation_max_rotation": "augmentation.data_augmentation_max_rotation",
    "input_data_n_parallel_calls": "data.input_data_n_parallel_calls",
    "keep_prob": "model.keep_prob",
}


def leaf(tree: Configuration, path: str):
    for name in path.split("."):
        tree = getattr(tree, name)
    return tree


def nested(path: str, value) -> dict:
    """Return {"a": {"b": value}} for the key a.b."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def with_leaf(path: str, value) -> dict:
    tree = copy.deepcopy(LEAST)
    *groups, name = path.split(".")
    branch = tree
    for group in groups:
        branch = branch.setdefault(group, {})
    branch[name] = value
    return tree


def refusal(*overrides: str, tree: dict = LEAST) -> str:
    with pytest.raises(UsageError) as caught:
        config.parse(tree, overrides, origin="mine.json")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_every_key_is_described_and_listed_with_its_default_for_help():
    table = config.describe_keys()
    for key, field in config.fields().items():
        assert field.description, f"{key} has no description"
        default = r"( \(required\)| \[default: .+\])?"
        meaning = re.escape(field.description.split()[0])
        assert re.search(rf"^  {key}{default}\n      {meaning}", table, re.MULTILINE)
    for absent in ("null]", "[]]", '"'):
        assert f"default: {absent}" not in table


def test_the_reference_has_a_row_for_each_key_with_its_type_default_and_limits():
    rows = config.reference_markdown().splitlines()
    for key in config.fields():
        assert sum(row.startswith(f"| `{key}` | ") for row in rows) == 1
    for row in (
        '| `model.size` | string | `"full"` | Size of the network, which sets cnn_channels and lstm_size: full has 64 '
        "to 512 channels and 256 LSTM units (as tf-crnn), half 32 to 256 and 128, quarter 16 to 128 and 128. | "
        '`"full"`, `"half"`, `"quarter"` |',
        "| `training.seed` | integer | `0` | Seed of all random numbers of a run. | ≥ 0, < 4294967296 |",
        r'| `data.string_split_delimiter` | character | `"|"` | Character that marks a label as a sequence of units, '
        r"as in \|a\|b\| \|c\|, when the label starts with it. |  |",
        "| `keep_prob` | `model.keep_prob` |",
    ):
        assert row in rows
    for start in (
        "| `cluster.num_workers` | integer or list of 2 integers or null | `null` | ",
        "| `data.csv_files_train` | list of strings or object of numbers | required | ",
        "| `model.cnn_channels` | list of 7 integers or null | `null` | ",
    ):
        assert any(row.startswith(start) for row in rows)


def test_only_the_training_csvs_must_be_given():
    assert [key for key, field in config.fields().items() if field.is_required()] == ["data.csv_files_train"]
    assert config.parse(LEAST).data.csv_files_train == ("train.csv",)


@pytest.mark.parametrize("key", [k for k, field in config.fields().items() if not field.is_required()])
def test_defaults_are_valid_as_explicit_values(key):
    default = leaf(config.parse(LEAST), key)
    assert leaf(config.parse(with_leaf(key, default)), key) == default


def test_a_configuration_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        config.parse(LEAST).training.n_epochs = 3


# What is refused

REFUSED = [
    ("training.learning_rat=1", ["training.learning_rat: unknown key", "mean training.learning_rate?"]),
    ("trainig.n_epochs=1", ["trainig: unknown key", "did you mean training?"]),
    ("training.keep_prob=0.5", ["training.keep_prob: unknown key", "did you mean model.keep_prob?"]),
    ("keep_prob=0.5", ["keep_prob: unknown key", "did you mean model.keep_prob?"]),
    ("qqqq=1", ["qqqq: unknown key", "--help"]),
    ("training.learning_rate=fast", ['training.learning_rate = "fast"', "number"]),
    ("training.learning_rate=0", ["training.learning_rate = 0", "greater than 0"]),
    ("training.learning_rate=NaN", ["training.learning_rate = NaN"]),
    ("training.learning_rate=Infinity", ["training.learning_rate = Infinity", "finite"]),
    ("training.learning_rate=1e999", ["training.learning_rate", "finite"]),
    ("training.n_epochs=1.5", ["training.n_epochs = 1.5", "integer"]),
    ("training.n_epochs=true", ["training.n_epochs = true", "integer"]),
    ("training.n_epochs=0", ["training.n_epochs = 0", "1"]),
    ('training.n_epochs="3"', ['training.n_epochs = "3"', "integer"]),
    ("training.optimizer=sgd", ['training.optimizer = "sgd"', "'adamw', 'adam', 'rms' or 'ada'"]),
    ("training.seed=-1", ["training.seed = -1"]),
    ("training.seed=4294967296", ["training.seed = 4294967296"]),
    ("training=5", ["training: ", "object"]),
    ("restore_model=1", ["restore_model = 1", "boolean"]),
    ("output_model_dir=", ['output_model_dir = ""']),
    ("output_model_dir.x=1", ['output_model_dir = {"x": 1}', "string"]),
    ("data.csv_files_train=[]", ["data.csv_files_train = []", "at least 1"]),
    ("data.csv_files_train=[1,2]", ["data.csv_files_train = [1, 2]", "string"]),
    ("data.csv_delimiter=ab", ['data.csv_delimiter = "ab"', "1 character"]),
    ('data.csv_delimiter="', ['data.csv_delimiter = "\\""', "cannot be a delimiter"]),
    ("data.csv_delimiter=\n", ['data.csv_delimiter = "\\n"', "cannot be a delimiter"]),
    ("data.csv_delimiter=|", ["data: csv_delimiter and string_split_delimiter must be different"]),
    ("data.encoding=klingon", ['data.encoding = "klingon"', "utf-8"]),
    ("data.unicode_form=NFX", ['data.unicode_form = "NFX"', "'NFC'"]),
    ("data.max_rejected=1.1", ["data.max_rejected = 1.1", "1"]),
    ("image.input_shape=[33,100]", ["image.input_shape = [33, 100]", "multiple of 16"]),
    ("image.input_shape=[16,100]", ["image.input_shape = [16, 100]", "at least 32"]),
    ("image.input_shape=[32,7]", ["image.input_shape = [32, 7]", "at least 8"]),
    ("image.input_shape=[32]", ["image.input_shape"]),
    ("image.input_channels=2", ["image.input_channels = 2", "1 or 3"]),
    ("model.size=tiny", ['model.size = "tiny"', "'full', 'half' or 'quarter'"]),
    ("model.keep_prob=0", ["model.keep_prob = 0", "greater than 0"]),
    ("model.cnn_channels=[1,2]", ["model.cnn_channels = [1, 2]", "7 items"]),
    ("augmentation.data_augmentation=no", ['augmentation.data_augmentation = "no"', "boolean"]),
    ("augmentation.padding=0.1", ["augmentation.padding: "]),
    ("augmentation.padding.strength=0.6", ["augmentation.padding.strength = 0.6", "0.5"]),
    ("decoding.num_beam_paths=101", ["decoding: beam_width must be at least"]),
    ("decoding.beam_width=1", ["decoding: beam_width must be at least 2"]),
    ('decoding={"method": "greedy", "num_beam_paths": 2}', ["decoding: greedy", "method=beam"]),
    ("cluster.use_gpu=maybe", ['cluster.use_gpu = "maybe"', "'auto'", "boolean"]),
    ("cluster.cpus_per_worker=0", ["cluster.cpus_per_worker = 0"]),
]


@pytest.mark.parametrize(("override", "expected"), REFUSED, ids=[override for override, _ in REFUSED])
def test_a_wrong_key_or_value_is_refused_with_path_value_and_what_is_allowed(override, expected):
    message = refusal(override)
    assert message.startswith("mine.json with the given KEY=VALUE: the configuration is not valid\n")
    for words in expected:
        assert words in message


def test_all_problems_are_reported_at_once():
    message = refusal("training.n_epochs=0", "model.keep_prob=2", "nonsense=1")
    assert len(message.splitlines()) == 1 + 3


@pytest.mark.parametrize(("tree", "missing"), [({}, "data"), ({"data": {}}, "data.csv_files_train")])
def test_missing_keys_are_named(tree, missing):
    message = refusal(tree=tree)
    assert message.startswith("mine.json: the configuration is not valid\n")
    assert f"{missing}: is missing" in message


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


def test_overrides_apply_after_flat_keys_are_grouped():
    found = config.parse(FLAT, ["training.n_epochs=7", "model.keep_prob=0.5"])
    assert (found.training.n_epochs, found.model.keep_prob) == (7, 0.5)


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


def flat_values() -> dict:
    """Yield the key and value of every leaf of `FLAT`."""
    return {k: v for k, v in FLAT.items() if k != "training_params"} | FLAT["training_params"]


@pytest.fixture
def flat_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(FLAT).replace("10000.0", "1e4"), encoding="utf-8")
    return path


def test_every_flat_key_is_tested():
    assert flat_values().keys() == LEAF_OF_FLAT_KEY.keys()
    assert config.GROUP_OF_FLAT_KEY.keys() <= LEAF_OF_FLAT_KEY.keys()


@pytest.mark.parametrize("key", LEAF_OF_FLAT_KEY)
def test_a_flat_key_sets_its_grouped_key(key, flat_file):
    path, value = LEAF_OF_FLAT_KEY[key], flat_values()[key]
    expected = (value,) if key == "csv_files_eval" else tuple(value) if isinstance(value, list) else value
    assert leaf(config.load(flat_file), path) == expected
    assert leaf(config.parse(LEAST), path) != expected, "a value that is the default shows nothing"


def test_augmentation_can_be_switched_off_by_the_flat_key():
    flat = {"csv_files_train": "a.csv", "data_augmentation": False}
    assert config.parse(flat).augmentation.data_augmentation is False


@pytest.mark.parametrize("keep_prob", [0.25, 0.5, 1, 1.0])
def test_the_flat_keep_prob_sets_the_one_of_the_model(keep_prob):
    assert config.parse({"csv_files_train": "a.csv", "keep_prob": keep_prob}).model.keep_prob == keep_prob


def test_flat_and_grouped_keys_can_be_mixed():
    found = config.parse(
        {
            "csv_files_train": "a.csv",
            "data": {"csv_delimiter": ","},
            "training_params": {"n_epochs": 3},
            "training": {"seed": 5},
            "keep_prob": 0.9,
            "model": {"size": "half"},
        }
    )
    assert found.data.csv_files_train == ("a.csv",)
    assert found.data.csv_delimiter == ","
    assert (found.training.n_epochs, found.training.seed) == (3, 5)
    assert (found.model.keep_prob, found.model.size) == (0.9, "half")


@pytest.mark.parametrize("key", [key for key, path in LEAF_OF_FLAT_KEY.items() if "." in path])
def test_a_key_given_flat_and_in_its_group_is_refused(key):
    path, value = LEAF_OF_FLAT_KEY[key], flat_values()[key]
    in_params = key in FLAT["training_params"]
    flat = {"training_params": {key: value}} if in_params else {key: value}
    message = refusal(tree={**flat, **nested(path, value)})
    assert f"{path} is given twice" in message
    assert message.startswith("mine.json")


@pytest.mark.parametrize(
    "tree", [{"training_params": 5}, {"training": 5, "training_params": {}}, {"keep_prob": 1, "model": []}]
)
def test_a_group_that_is_not_an_object_is_refused_before_flat_keys_are_grouped(tree):
    assert "must be a JSON object" in refusal(tree=tree)


@pytest.mark.parametrize(
    ("training", "schedule"),
    [
        ({}, "one_cycle"),
        ({"learning_rate": 1e-3}, "one_cycle"),
        ({"learning_decay_rate": 0.9}, "exponential"),
        ({"learning_decay_steps": 10}, "exponential"),
        ({"learning_decay_rate": 0.96, "learning_decay_steps": 1000}, "exponential"),
        ({"learning_decay_rate": 0.9, "schedule": "one_cycle"}, "one_cycle"),
        ({"learning_decay_steps": 10, "schedule": "constant"}, "constant"),
    ],
)
@pytest.mark.parametrize("group", ["training", "training_params"])
def test_learning_decay_without_a_schedule_selects_exponential(group, training, schedule):
    assert config.parse({**LEAST, group: training}).training.schedule == schedule


def test_learning_decay_by_override_selects_exponential_too():
    assert config.parse(LEAST, ["training.learning_decay_rate=0.9"]).training.schedule == "exponential"


@pytest.mark.parametrize(
    ("model", "channels", "lstm"),
    [
        ({}, (64, 128, 256, 256, 512, 512, 512), 256),
        ({"size": "full"}, (64, 128, 256, 256, 512, 512, 512), 256),
        ({"size": "half"}, (32, 64, 128, 128, 256, 256, 256), 128),
        ({"size": "quarter"}, (16, 32, 64, 64, 128, 128, 128), 128),
        ({"size": "half", "lstm_size": 7}, (32, 64, 128, 128, 256, 256, 256), 7),
        ({"size": "half", "cnn_channels": [1, 2, 3, 4, 5, 6, 7]}, (1, 2, 3, 4, 5, 6, 7), 128),
    ],
)
def test_size_sets_channels_and_lstm_and_explicit_keys_win(model, channels, lstm):
    found = config.parse({**LEAST, "model": model}).model
    assert (found.channels, found.lstm_units) == (channels, lstm)


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


# Whatever is given

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


@pytest.mark.parametrize(
    ("override", "csvs", "weights"),
    [
        ("data.csv_files_train=a.csv", ("a.csv",), None),
        ('data.csv_files_train=["a.csv", "b.csv"]', ("a.csv", "b.csv"), None),
        ('data.csv_files_train={"a.csv": 3, "b.csv": 0.5}', ("a.csv", "b.csv"), (3.0, 0.5)),
    ],
)
def test_training_csvs_can_have_weights(override, csvs, weights):
    data = config.parse({}, [override]).data
    assert (data.train_csvs, data.train_weights) == (csvs, weights)


@pytest.mark.parametrize("given", ['{"a.csv": 0}', '{"a.csv": "x"}', "{}", '{"a.csv": -1}'])
def test_invalid_weights_are_refused_in_one_line(given):
    message = refusal(f"data.csv_files_train={given}")
    assert message.count("data.csv_files_train = ") == 1


@pytest.mark.parametrize("given", ["[2, 1]", "[0, 1]", "[1]", "[1, 2, 3]", "0"])
def test_an_invalid_range_of_workers_is_refused_in_one_line(given):
    message = refusal(f"cluster.num_workers={given}")
    assert message.count("cluster.num_workers = ") == 1


@pytest.mark.parametrize(
    ("settings", "batches", "epochs", "between_evaluations"),
    [
        ({}, 130, 60, 1),
        # A hundred rows at 16 in a batch.
        ({}, 7, 429, 7),
        ({}, 1, 3000, 50),
        ({}, 26, 116, 2),
        ({"n_epochs": 5}, 7, 5, 1),
        ({"evaluate_every_epoch": 2}, 7, 429, 2),
        ({"n_epochs": 90, "evaluate_every_epoch": 3}, 130, 90, 3),
    ],
)
def test_few_rows_are_trained_on_for_more_epochs_by_default(settings, batches, epochs, between_evaluations):
    training = config.Training(**settings)
    assert training.epochs(batches) == epochs
    assert training.epochs_between_evaluations(batches) == between_evaluations
