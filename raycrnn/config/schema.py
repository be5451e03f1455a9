"""The configuration as a tree of pydantic models: keys, types, defaults, allowed values.

Every key has one dotted path (`training.learning_rate`), which is the same in JSON, on the command line and in a
search file. The attribute docstrings are the help text of `raycrnn train --help` and of the reference page.
"""

import json
import math
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from raycrnn.config.augmentation import Augmentation
from raycrnn.config.decoding import Decoding
from raycrnn.config.group import AUTO, Group, Integer, Location, Positive, Share

CHANNELS_OF_SIZE = {
    "full": (64, 128, 256, 256, 512, 512, 512),
    "half": (32, 64, 128, 128, 256, 256, 256),
    "quarter": (16, 32, 64, 64, 128, 128, 128),
}
LSTM_OF_SIZE = {"full": 256, "half": 128, "quarter": 128}

DEFAULT_EPOCHS = 60
"""Least number of epochs of a run whose configuration does not set it."""

DEFAULT_STEPS = 3000
"""Least number of steps of a run whose configuration does not set the number of epochs.

On a hundred lines of old print, 3,000 steps gave 40 % fewer errors than the 420 steps of 60 epochs (see
docs/measurements.md).
"""

DEFAULT_STEPS_FROM_A_MODEL = 1000
"""The same for a run that starts from a model, which needs fewer."""


def one_as_several(value: object) -> object:
    """Return a list as a tuple and a single string as a tuple of one string."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _check_delimiter(delimiter: str) -> str:
    if delimiter in '"\r\n':
        raise ValueError("a quote or a line end cannot be a delimiter")
    return delimiter


def _check_encoding(encoding: str) -> str:
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError("unknown encoding; use one that Python knows, such as utf-8, latin-1 or cp1252") from None
    return encoding


def _check_regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return pattern


def _tab_as_character(delimiter: object) -> object:
    """Return `tab` and a backslash with a t, which is how people type a tab in a shell, as the tab character."""
    return "\t" if delimiter in ("tab", "\\t") else delimiter


Delimiter = Annotated[
    str, Field(min_length=1, max_length=1), BeforeValidator(_tab_as_character), AfterValidator(_check_delimiter)
]
Encoding = Annotated[str, AfterValidator(_check_encoding)]
RegularExpression = Annotated[str, AfterValidator(_check_regular_expression)]
Csvs = Annotated[tuple[Location, ...], BeforeValidator(one_as_several)]
Weights = Annotated[dict[Location, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Data(Group):
    """The CSV files and how to read them."""

    csv_files_train: Annotated[Csvs, Field(min_length=1)] | Weights
    """CSV files to train on, with rows `path;label`: one path, a list of paths, or {path: weight}. With weights, each
    batch draws from the files in these proportions. A packed data set (a .parquet file or a folder of them) or a recipe
    of synthetic lines (a .json file) may stand in place of a CSV."""
    csv_files_eval: Csvs = ()
    """CSV files or packed data sets to evaluate on: one path or a list of paths. Without any, the last model is
    exported, not the best."""
    csv_delimiter: Delimiter = ";"
    """Character between path and label; tab or \\t for a tab. The first one in a row separates them; the label may
    contain more."""
    string_split_delimiter: Delimiter = "|"
    """Character that marks a label as a sequence of units, as in |a|b| |c|, when the label starts with it."""
    lookup_alphabet_file: Location | None = None
    """Alphabet: a JSON file {unit: code}, or one that raycrnn includes (lookup_digits, lookup_letters_symbols,
    lookup_letters_digits_symbols). By default the alphabet is built from the training labels."""
    encoding: Encoding = "utf-8"
    """Encoding of the CSV files, by its name in Python. With utf-8, the byte order mark of UTF-16 is recognised too."""
    unicode_form: Literal["NFC", "NFD", "NFKC", "NFKD"] = "NFC"
    """Unicode normalisation form of labels and alphabets."""
    text_direction: Literal["auto", "ltr", "rtl", "visual"] = "auto"
    """Direction of the lines, whose labels are in the order of reading. ltr: left to right; rtl: right to left, as in
    Hebrew and Arabic. Numbers and words of the other direction within a line are recognised. visual: labels list the
    units as they stand in the image, from left to right. auto: rtl if most letters of the training labels belong to
    scripts that run from right to left, else ltr."""
    line_orientation: Literal["horizontal", "top_to_bottom", "bottom_to_top"] = "horizontal"
    """How the lines run in the images. top_to_bottom: columns of Chinese, Japanese or Mongolian, and lines that were
    turned clockwise; bottom_to_top: lines that were turned counterclockwise. Such images are turned by 90° before the
    network reads them from left to right. text_direction then says what is left and right after the turn."""
    max_rejected: Share = 0.01
    """Fraction of a set's samples that may be unusable. If there are more, the run fails."""
    input_data_n_parallel_calls: Positive | None = None
    """Number of tasks that decode images in parallel for each training worker. By default one for each CPU that
    training leaves free, and at least one."""
    keep_decoded: Literal["auto"] | bool = "auto"
    """Whether to keep the decoded training images in memory, so that later epochs read no files. auto: if they take at
    most a quarter of Ray's object store."""

    fold_group: RegularExpression | None = None
    """Regular expression that names the group of each training image for training.folds, as raycrnn split --group does:
    it is searched in each path, and what its first (group) matches is the name. Rows of one group, such as a book, are
    never in two folds. By default every image is a group."""

    @property
    def train_csvs(self) -> tuple[str, ...]:
        return tuple(self.csv_files_train)

    @property
    def train_weights(self) -> tuple[float, ...] | None:
        """The weight of each of `train_csvs`; None if all rows count the same."""
        return tuple(self.csv_files_train.values()) if isinstance(self.csv_files_train, dict) else None

    @model_validator(mode="after")
    def _delimiters_differ(self) -> "Data":
        if self.csv_delimiter == self.string_split_delimiter:
            raise ValueError("csv_delimiter and string_split_delimiter must be different characters")
        return self


class Image(Group):
    """The size and the channels of the images that the network reads."""

    input_shape: tuple[Positive, Positive] = (32, 1024)
    """[height, maximum width] in pixels. The height must be a multiple of 16 and at least 32; wider images are shrunk
    to the maximum width."""
    input_channels: Literal[1, 3] = 1
    """Channels of an image: 1 for greyscale, 3 for RGB."""

    @field_validator("input_shape")
    @classmethod
    def _shape_fits_network(cls, shape: tuple[int, int]) -> tuple[int, int]:
        height, width = shape
        if height < 32 or height % 16:
            raise ValueError("the height must be a multiple of 16 and at least 32")
        if width < 8:
            raise ValueError("the maximum width must be at least 8, the width of one frame")
        return shape


class Model(Group):
    """The network: seven convolutions, bidirectional LSTM layers and one linear layer."""

    size: Literal["full", "half", "quarter"] = "full"
    """Size of the network, which sets cnn_channels and lstm_size: full has 64 to 512 channels and 256 LSTM units (as
    tf-crnn), half 32 to 256 and 128, quarter 16 to 128 and 128."""
    cnn_channels: Annotated[tuple[Positive, ...], Field(min_length=7, max_length=7)] | None = None
    """Output channels of the seven convolutions. By default size sets them."""
    lstm_size: Positive | None = None
    """Number of units in each direction of an LSTM layer. By default size sets it."""
    lstm_layers: Positive = 2
    """Number of bidirectional LSTM layers."""
    keep_prob: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Probability that dropout keeps a value, before and between the LSTM layers and before the linear layer."""

    @property
    def channels(self) -> tuple[int, ...]:
        return self.cnn_channels or CHANNELS_OF_SIZE[self.size]

    @property
    def lstm_units(self) -> int:
        return self.lstm_size or LSTM_OF_SIZE[self.size]


class Training(Group):
    """How the network is trained. Batch sizes are global: they are divided among the workers."""

    n_epochs: Positive | None = None
    """Number of passes over the training set; an upper bound if max_minutes is set. By default 60, and more with few
    rows: as many as make 3,000 steps, or 1,000 from an initial model."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall-clock limit in minutes from the start of the command, including start-up, evaluation and export. The
    learning-rate schedule is fitted to it. By default there is no limit."""
    train_batch_size: Positive = 16
    """Maximum number of samples in a training batch, over all workers. Without batch_by=area, the batches of an
    epoch differ by at most one sample."""
    batch_by: Literal["count", "area"] = "count"
    """How batches are filled. count: with at most train_batch_size samples. area: with samples of about the same total
    width as train_batch_size samples of mean width, so that a batch has more narrow images or fewer wide ones."""
    eval_batch_size: Positive = 64
    """Number of samples in an evaluation batch, over all workers."""
    optimizer: Literal["adamw", "adam", "rms", "ada"] = "adamw"
    """Optimizer: adamw, adam (with beta1 = 0.5, as tf-crnn), rms (RMSprop) or ada (Adadelta)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate; the peak of it for the one_cycle schedule."""
    schedule: Literal["one_cycle", "exponential", "constant"] = "one_cycle"
    """Learning-rate schedule. one_cycle: linear warm-up, then cosine decay to zero. exponential: staircase decay, as
    tf-crnn. constant: no change."""
    warm_up: Share = 0.08
    """Fraction of the run in which the learning rate of the one_cycle schedule rises."""
    learning_decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.96
    """Factor of each step of the exponential schedule. Setting it selects that schedule, unless schedule is set too."""
    learning_decay_steps: Positive = 1000
    """Training steps between two decays of the exponential schedule. Setting it selects that schedule, unless schedule
    is set too."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of adamw, applied to matrices and convolution kernels only."""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 5.0
    """Maximum norm of the gradient; larger gradients are scaled down to it. null turns clipping off."""
    evaluate_every_epoch: Positive | None = None
    """Number of epochs between two evaluations. By default 1; if n_epochs is not set either, a run with few rows has
    about 60 evaluations."""
    save_interval: Positive = 1000
    """Number of steps between two checkpoints. A checkpoint is also saved at the end, and after an evaluation if the
    last one is more than 30 seconds old."""
    save_minutes: Annotated[float, Field(gt=0)] = 5.0
    """Minutes after which a checkpoint is saved in any case: a run that is killed loses no more than that."""
    early_stopping: Positive | None = None
    """Number of evaluations without improvement after which training stops, not counted while the initial model is the
    best one. By default it never stops early."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Floating-point precision. auto: bfloat16 autocast if the hardware computes in it, else float32."""
    seed: Annotated[Integer, Field(ge=0, lt=2**32)] = 0
    """Seed of all random numbers of a run."""
    initial_model: Annotated[Location, Field(min_length=1)] | None = AUTO
    """Model directory, a path or a URI, with whose weights training starts, or latin or latin48: the models for Latin
    script that come with raycrnn. Keys of the network that are not set are taken from that model. auto: latin48 if
    there are at most 2,500 rows and the median height of their images is more than 38 pixels, or if that of input_shape
    is set to more, else latin; random weights if that model lacks too many units of the labels, there are more than
    10,000 rows, or a key needs another network. null: random weights."""
    initial_model_sha256: str | None = None
    """SHA-256 of the weights of initial_model. A run is refused if they have another one. A run without this key adds
    it to the configuration of its model."""
    initial_alphabet: Literal["union", "new", "same"] = "union"
    """Units of a model that starts from initial_model. union: those of the training labels, or of lookup_alphabet_file,
    and those of initial_model; new: only the former; same: only those of initial_model."""
    initial_layers_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate for the convolutions and LSTM layers of initial_model. The output layer, which may
    have new units, has the full rate."""
    frozen_convolutions: Annotated[Integer, Field(ge=0, le=7)] = 0
    """Number of convolutions, from the first, that keep the weights and statistics of initial_model."""
    folds: Annotated[Integer, Field(ge=2)] | None = None
    """Number of models to train, each of which holds back another part of the training CSVs as its evaluation set. The
    models vote (output_model_dir/model), and each row is read by the model that was not trained on it: see
    suspects.csv. data.csv_files_eval then tests the vote. By default one model is trained on all rows."""
    fold: Positive | None = None
    """Number of the only fold to train, from 1 to folds. By default all folds are trained."""

    def epochs(self, batches: int) -> int:
        """Return the number of epochs of a run, given the number of batches in each."""
        # `initial_model` may be auto, which stands for either; the digest is set for runs that do start from a model.
        steps = DEFAULT_STEPS if self.initial_model_sha256 is None else DEFAULT_STEPS_FROM_A_MODEL
        return self.n_epochs or max(DEFAULT_EPOCHS, math.ceil(steps / batches))

    def epochs_between_evaluations(self, batches: int) -> int:
        """Return the number of epochs from one evaluation to the next, given the number of batches in each."""
        by_default = 1 if self.n_epochs else round(self.epochs(batches) / DEFAULT_EPOCHS)
        return self.evaluate_every_epoch or by_default

    @model_validator(mode="after")
    def _initial_model_is_set(self) -> "Training":
        names = ("initial_model_sha256", "initial_alphabet", "initial_layers_rate", "frozen_convolutions")
        changed = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if changed and self.initial_model in (None, AUTO):
            raise ValueError(f"{', '.join(changed)}: set initial_model too, or remove this")
        return self

    @model_validator(mode="after")
    def _fold_exists(self) -> "Training":
        if self.fold is not None and self.fold > (self.folds or 0):
            raise ValueError(f"fold={self.fold}: set folds to {max(2, self.fold)} or more, or remove fold")
        return self

    @model_validator(mode="before")
    @classmethod
    def _decay_selects_exponential(cls, values: object) -> object:
        decay = {"learning_decay_rate", "learning_decay_steps"}
        if isinstance(values, dict) and "schedule" not in values and decay & values.keys():
            return {**values, "schedule": "exponential"}
        return values


class Cluster(Group):
    """The resources that training takes from the Ray cluster."""

    num_workers: Positive | tuple[Positive, Positive] | None = None
    """Number of training workers, each with one GPU or a share of the CPUs. [minimum, maximum]: as many as the cluster
    has room for, fewer after a node is lost and more after one is added. By default num_gpus, or 1 without it."""
    num_gpus: Annotated[Integer, Field(ge=0)] | None = None
    """Number of GPU workers (the key of tf-crnn; prefer num_workers). Without a GPU the workers run on CPUs, with a
    warning."""
    use_gpu: Literal["auto"] | bool = "auto"
    """Whether each worker takes a GPU. auto: if the cluster has GPUs."""
    cpus_per_worker: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Number of CPUs reserved for each worker. auto: an equal share, minus what decoding needs."""
    max_failures: Annotated[Integer, Field(ge=0)] = 3
    """Number of times that a run restarts from its last checkpoint after a worker dies."""
    wait_minutes: Annotated[float, Field(ge=0)] = 20.0
    """Minutes to wait for nodes that the cluster's autoscaler has to start."""

    @model_validator(mode="after")
    def _one_number_of_workers(self) -> "Cluster":
        if self.num_workers and self.num_gpus and self.num_workers != self.num_gpus:
            raise ValueError(f"num_workers={self.num_workers} and num_gpus={self.num_gpus} differ: set only one")
        return self

    @field_validator("num_workers")
    @classmethod
    def _least_first(cls, workers: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError("[minimum, maximum]: the minimum must not be greater than the maximum")
        return workers


class Configuration(Group):
    """The configuration of a run."""

    output_model_dir: Location = Field("output", min_length=1)
    """Directory for the model, checkpoints and logs. It must be new or empty unless restore_model is true."""
    restore_model: bool = False
    """Whether to resume from the last complete checkpoint in output_model_dir."""
    data: Data
    image: Image = Image()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    decoding: Decoding = Decoding()
    cluster: Cluster = Cluster()

    @property
    def eval_csvs(self) -> tuple[str, ...]:
        """The CSVs to evaluate on during training: none for a fold, which evaluates on the rows that it holds back."""
        return () if self.training.fold else self.data.csv_files_eval

    def identity(self) -> dict[str, object]:
        """Return the keys that determine the training steps, by dotted path: a resumed run must not change them."""
        training = (
            *("optimizer", "train_batch_size", "batch_by", "eval_batch_size", "seed"),
            # Without its path, because a model may move.
            *("initial_model_sha256", "initial_alphabet", "frozen_convolutions"),
            *("folds", "fold"),
        )
        identity = {f"training.{name}": getattr(self.training, name) for name in training}
        identity |= {"model.cnn_channels": self.model.channels, "model.lstm_size": self.model.lstm_units}
        identity["model.lstm_layers"] = self.model.lstm_layers
        identity |= {f"image.{name}": value for name, value in self.image}
        names = (
            "csv_delimiter",
            "string_split_delimiter",
            "encoding",
            "unicode_form",
            "text_direction",
            "line_orientation",
            "fold_group",
        )
        identity |= {f"data.{name}": getattr(self.data, name) for name in names}
        # Without the paths of the CSVs, which may move. What is in them is compared by `training.resume`.
        identity["data.csv_files_train, weights"] = self.data.train_weights
        return json.loads(json.dumps(identity))
