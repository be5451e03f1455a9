"""Test search files: their content, and the message for each mistake."""

import itertools
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raycrnn import config
from raycrnn.errors import UsageError
from raycrnn.tuning import search_file, search_space
from raycrnn.tuning.search_space import Distribution

SHIPPED = sorted((Path(__file__).parents[2] / "tune_configs").glob("*.yaml"))


def tree() -> dict:
    return {"data": {"csv_files_train": ["train.csv"], "csv_files_eval": ["eval.csv"]}, "output_model_dir": "output"}


def load(folder: Path, text: str, base: dict | None = None) -> tuple[search_space.Search, dict]:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return search_file.load(path, base or tree())


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, text)
    return str(caught.value).replace(str(folder / "s.yaml"), "s.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_search_file_is_valid_on_the_template(path):
    template = config.grouped(config.read_json_object(path.parents[1] / "config_template.json"))
    found, base = search_file.load(path, template)
    assert found.trials >= 4
    config.parse(base)


def test_the_expected_search_files_are_shipped():
    assert {path.stem for path in SHIPPED} == {
        "learning_rate",
        "lr_lstm",
        "augmentation",
        "language_model",
        "narrow_networks",
        "smoke",
    }


def test_every_key_of_the_augmentation_can_be_searched(tmp_path):
    keys = [key for key in config.fields() if key.startswith("augmentation.")]
    assert {"augmentation.blur.strength", "augmentation.blur.share", "augmentation.share"} < set(keys)
    others = {"augmentation.data_augmentation": "[true, false]", "augmentation.stronger_after_passes": "[5, null]"}
    values = [others.get(key, "[0, 0.1]") for key in keys]
    lines = [f"  {key}: {{choice: {choice}}}\n" for key, choice in zip(keys, values, strict=True)]
    found, _ = load(tmp_path, "search:\n" + "".join(lines) + "samples: 2\n")
    assert list(found.search) == keys


def test_all_settings_of_a_file_are_read(tmp_path):
    text = """
search:
  training.learning_rate: {loguniform: [1e-4, 1.5e-2]}
  model.lstm_size: {choice: [64, 128]}
  model.lstm_layers: {randint: [1, 3]}
  model.keep_prob: {quniform: [0.5, 1.0, 0.25]}
fixed:
  training.n_epochs: 3
metric: accuracy
algorithm: tpe
scheduler: {asha: {grace: 0.25}}
samples: 7
max_minutes: 10
concurrent: 2
resources: {cpus: 2, gpus: 0.5}
"""
    found, base = load(tmp_path, text)
    assert found.search["training.learning_rate"] == Distribution("loguniform", (1e-4, 0.015))
    assert found.search["model.lstm_layers"].values == (1, 3)
    assert (found.metric, found.samples, found.trials) == (("accuracy",), 7, 7)
    assert found.scheduler.asha.grace == 0.25 and found.scheduler.asha.reduction == 3
    assert (found.resources.cpus, found.resources.gpus) == (2, 0.5)
    assert base["training"] == {"n_epochs": 3}
    assert {key: base[key] for key in tree()} == tree()


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "1.0e-4", "0.0001", "1e-04", ".1e-3"])
def test_all_notations_of_a_number_are_accepted(tmp_path, written):
    found, _ = load(tmp_path, f"search:\n  training.learning_rate: {{uniform: [{written}, 1]}}\n")
    assert found.search["training.learning_rate"].values == (1e-4, 1)


@pytest.mark.parametrize("word", ["asha", "{asha: }", "{asha: {}}"])
def test_a_scheduler_may_be_a_name_or_have_settings(tmp_path, word):
    found, _ = load(tmp_path, f"search:\n  model.keep_prob: {{choice: [1]}}\nscheduler: {word}\n")
    assert found.scheduler.asha == search_space.Asha()


@pytest.mark.parametrize("word", ["none", "", "null", "{}"])
def test_a_search_may_have_no_scheduler(tmp_path, word):
    found, _ = load(tmp_path, f"search:\n  model.keep_prob: {{choice: [1]}}\nscheduler: {word}\n")
    assert found.scheduler == search_space.Scheduler()


def test_a_grid_repeats_each_point_samples_times(tmp_path):
    text = """
search:
  model.lstm_size: {grid: [64, 128]}
  model.lstm_layers: {grid: [1, 2, 3]}
  model.keep_prob: {uniform: [0.5, 1]}
samples: 2
"""
    found, _ = load(tmp_path, text)
    assert [tuple(point.values()) for point in found.grid] == list(itertools.product([64, 128], [1, 2, 3]))
    assert found.trials == 12
    assert list(found.drawn) == ["model.keep_prob"]


def test_a_search_over_decoding_alone_is_recognised(tmp_path):
    assert load(tmp_path, "search:\n  decoding.beam_width: {choice: [10, 100]}\n")[0].decoding_only
    assert not load(tmp_path, KEEP)[0].decoding_only


KEEP = "search:\n  model.keep_prob: {uniform: [0.5, 1]}\n"

MISTAKES = {
    "an unknown key of the configuration": (
        "search:\n  training.learnin_rate: {loguniform: [1e-4, 1e-2]}\n",
        "s.yaml, line 2: training.learnin_rate: unknown key of the configuration; did you mean training.learning_rate?",
    ),
    "an unknown distribution": (
        "search:\n\n  training.learning_rate: {logunifrm: [1e-4, 1e-2]}\n",
        "s.yaml, line 3: training.learning_rate: unknown distribution 'logunifrm'; did you mean loguniform?",
    ),
    "an invalid value": (
        "search:\n  training.learning_rate: {uniform: [-1, 1e-2]}\n",
        "s.yaml, line 2: training.learning_rate = -1: input should be greater than 0",
    ),
    "fractions for a key that takes integers": (
        "search:\n  model.lstm_size: {uniform: [16, 64]}\n",
        "s.yaml, line 2: model.lstm_size = 31.2",
    ),
    "a choice with an invalid option": (
        "search:\n  training.optimizer:\n    choice: [adamw, sgd]\n",
        's.yaml, line 2: training.optimizer = "sgd": input should be',
    ),
    "a list without a distribution": (
        "search:\n  model.lstm_size: [16, 64]\n",
        "s.yaml, line 2: model.lstm_size: is not a distribution: use one of choice, grid",
    ),
    "a reversed range": (
        "search:\n  model.keep_prob: {uniform: [1, 0.5]}\n",
        "s.yaml, line 2: model.keep_prob: [low, high]: low must be below high",
    ),
    "a logarithmic range from zero": (
        "search:\n  training.weight_decay: {loguniform: [0, 0.1]}\n",
        "s.yaml, line 2: training.weight_decay: [low, high]: low must be above 0",
    ),
    "strings in a range": (
        "search:\n  model.keep_prob: {uniform: [low, high]}\n",
        "s.yaml, line 2: model.keep_prob: needs 2 numbers: [low, high]",
    ),
    "an empty choice": (
        "search:\n  model.keep_prob: {choice: []}\n",
        "s.yaml, line 2: model.keep_prob: the list is empty",
    ),
    "a group instead of a key": (
        "search:\n  training:\n    learning_rate: {choice: [1e-3]}\n",
        "s.yaml, line 2: training: is a group of keys: write the dotted name of each key",
    ),
    "an unknown key of the search file": (
        KEEP + "samplse: 3\n",
        "s.yaml, line 3: samplse: unknown key; did you mean samples?",
    ),
    "a key of the configuration in the wrong place": (
        KEEP + "training.n_epochs: 3\n",
        "s.yaml, line 3: training.n_epochs: unknown key: keys of the configuration belong under search or fixed",
    ),
    "a missing search key": ("samples: 3\n", "s.yaml, line 1: search: field required"),
    "an empty file": ("", "s.yaml: contains no keys; a search file begins with search:"),
    "invalid YAML": ("search:\n  model.keep_prob: {uniform: [0.5, 1\n", "s.yaml, line 3: not YAML"),
    "a duplicate key": (KEEP + "samples: 1\nsamples: 2\n", "s.yaml, line 4: the key 'samples' occurs twice"),
    "a string instead of a number": (
        KEEP + "samples: many\n",
        "s.yaml, line 3: samples: input should be a valid integer",
    ),
    "an unknown scheduler": (
        KEEP + "scheduler: ashe\n",
        "s.yaml, line 3: scheduler.ashe: unknown scheduler: use asha, pbt or none",
    ),
    "two schedulers": (
        KEEP + "scheduler: {asha: {}, pbt: {}}\n",
        "s.yaml, line 3: scheduler: choose asha or pbt, not both",
    ),
    "an invalid setting of a scheduler": (
        KEEP + "scheduler:\n  asha:\n    grace: 2\n",
        "s.yaml, line 5: scheduler.asha.grace: input should be less than 1",
    ),
    "an unknown resource": (
        KEEP + "resources: {cpu: 3}\n",
        "s.yaml, line 3: resources.cpu: unknown key; did you mean cpus?",
    ),
    "pbt with a key of the network": (
        "search:\n  model.lstm_size: {choice: [16, 64]}\nscheduler: pbt\n",
        "s.yaml, line 2: model.lstm_size: pbt cannot change it",
    ),
    "pbt with an algorithm": (
        KEEP + "scheduler: pbt\nalgorithm: tpe\n",
        "s.yaml, line 4: algorithm: pbt draws values itself",
    ),
    "two metrics and a scheduler": (
        KEEP + "metric: [cer, speed]\nscheduler: asha\n",
        "s.yaml, line 3: metric: a scheduler uses one metric",
    ),
    "a key that cannot be searched": (
        "search:\n  cluster.num_workers: {choice: [1, 2]}\n",
        "s.yaml, line 2: cluster.num_workers: cannot be searched: set resources, or set it for all trials under fixed",
    ),
    "a key that is fixed and searched": (
        KEEP + "fixed:\n  model.keep_prob: 1\n",
        "s.yaml, line 4: model.keep_prob: is both fixed and searched: remove one of the two",
    ),
    "an invalid fixed value": (
        KEEP + "fixed:\n  training.n_epochs: 0\n",
        "s.yaml, line 4: training.n_epochs = 0: input should be greater than or equal to 1",
    ),
    "decoding and training together": (
        KEEP + "  decoding.beam_width: {choice: [10, 100]}\n",
        "s.yaml, line 3: decoding.beam_width: training does not depend on it: search decoding.* in a separate file",
    ),
    "a fixed training key in a search over decoding": (
        "search:\n  decoding.beam_width: {choice: [10, 100]}\nfixed:\n  training.n_epochs: 2\n",
        "s.yaml, line 4: training.n_epochs: has no effect on a search over decoding.* alone",
    ),
    "more readings, which need more outputs of the network": (
        "search:\n  decoding.readings: {grid: [1, 2]}\n",
        "s.yaml, line 2: decoding.readings: cannot be searched: the network reads each image once for all trials",
    ),
    "a search over the budget": (
        "search:\n  training.n_epochs: {choice: [10, 100]}\n",
        "s.yaml, line 2: training.n_epochs: cannot be searched: all trials have the same budget",
    ),
    "trials that would have different numbers of epochs": (
        "search:\n  training.train_batch_size: {choice: [16, 64]}\n",
        "s.yaml, line 2: training.train_batch_size: set training.n_epochs too",
    ),
    "steps that miss the end": (
        "search:\n  model.keep_prob: {quniform: [0.5, 1.0, 0.3]}\n",
        "s.yaml, line 2: model.keep_prob: [low, high, step]: steps of 0.3 do not lead from 0.5 to 1",
    ),
    "a value that is not JSON": (
        "search:\n  model.size: {choice: [!!binary aGVsbG8=]}\n",
        "s.yaml, line 2: model.size: [b'hello'] is not a JSON value",
    ),
    "a date": (
        "search:\n  model.size: {choice: [2024-01-01]}\n",
        's.yaml, line 2: model.size = "2024-01-01": input should be',
    ),
    "an output directory": (
        KEEP + "fixed:\n  output_model_dir: here\n",
        "s.yaml, line 4: output_model_dir: each trial has its own directory",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_with_its_line(tmp_path, name):
    text, message = MISTAKES[name]
    assert refusal(tmp_path, text).startswith(message)


def test_all_mistakes_are_reported_in_the_order_of_their_lines(tmp_path):
    text = "samplse: 2\nsearch:\n  model.keep_prob: {unifrom: [0.5, 1]}\nconcurrent: 0\n"
    assert [line.partition(":")[0] for line in refusal(tmp_path, text).splitlines()] == [
        "s.yaml, line 1",
        "s.yaml, line 3",
        "s.yaml, line 4",
    ]


def test_a_missing_file_is_reported():
    with pytest.raises(UsageError, match=r"gone\.yaml: no such file"):
        search_file.load("gone.yaml", tree())


def test_an_invalid_configuration_is_reported(tmp_path):
    with pytest.raises(UsageError, match=r"training\.n_epochs = 0"):
        load(tmp_path, KEEP, {**tree(), "training": {"n_epochs": 0}})


def test_nothing_in_a_file_is_executed(tmp_path):
    assert "not YAML" in refusal(tmp_path, "search: !!python/object/apply:os.getcwd []\n")


@given(
    st.text(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    ).map(yaml.safe_dump)
)
def test_any_text_is_accepted_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "s.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        search_file.load(path, tree())
    except UsageError as error:
        assert "s.yaml" in str(error)


def test_the_help_describes_every_key_of_a_search_file():
    described = config.describe_keys(search_space.Search)
    for key in config.fields(search_space.Search):
        assert any(line.startswith(f"  {key}") for line in described.splitlines())
    assert "object at" not in described


def test_probes_include_both_ends_and_a_fraction_between_them():
    low, high, between = Distribution("uniform", (0.5, 1.0)).probes()
    assert (low, high) == (0.5, 1.0) and low < between < high and not math.isclose(between * 4, round(between * 4))
