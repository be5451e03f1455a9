"""What is refused, and with which words."""

import pytest

from tests.config.samples import refusal

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
    assert message.startswith("mine.json with overrides: the configuration is not valid\n")
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
