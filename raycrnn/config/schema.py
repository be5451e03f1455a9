"""The configuration: one tree of typed groups, JSON on disk, `key=value` overrides, tf-crnn's flat keys.

Every key has one dotted path (`training.learning_rate`), the same in the JSON, on the command line and in a
search file. Validation is strict: an unknown key, a wrong type or an impossible value is a `UsageError` that
gives the dotted path, the value and what is allowed.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

CHANNELS_OF_SIZE = {
    "full": (64, 128, 256, 256, 512, 512, 512),
    "half": (32, 64, 128, 128, 256, 256, 256),
    "quarter": (16, 32, 64, 64, 128, 128, 128),
}
LSTM_OF_SIZE = {"full": 256, "half": 128, "quarter": 128}


def _integral_float_as_int(value: Any) -> Any:
    """JSON writes large whole numbers as 1e3, and tf-crnn's template does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def one_as_several(value: Any) -> Any:
    """For keys that take one value or a list."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Whole = Annotated[int, BeforeValidator(_integral_float_as_int)]
Positive = Annotated[Whole, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Csvs = Annotated[tuple[str, ...], BeforeValidator(one_as_several)]
Weights = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Group(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Data(Group):
    """The CSV files and how to read them."""

    csv_files_train: Annotated[Csvs, Field(min_length=1)] | Weights
    """CSV files to train on: one path, a list, or {path: weight}, of which each batch holds its share by weight;
    a row is `path;label`"""
    csv_files_eval: Csvs = ()
    """CSV files to evaluate on; none: the last model is the one exported"""
    csv_delimiter: str = Field(";", min_length=1, max_length=1)
    """character between path and label; the first one in a row splits"""
    string_split_delimiter: str = Field("|", min_length=1, max_length=1)
    """a label that begins with it is a sequence of units between such delimiters: |a|b| |c|"""
    lookup_alphabet_file: str | None = None
    """shipped table (lookup_digits, lookup_letters_symbols, lookup_letters_digits_symbols), a JSON file
    {unit: code}, or null: built from the training labels"""
    encoding: str = "utf-8"
    """encoding of the CSV files"""
    unicode_form: Literal["NFC", "NFD", "NFKC", "NFKD"] = "NFC"
    """Unicode normalisation of units"""
    max_rejected: Share = 0.01
    """share of samples that may be unusable before the run fails"""
    input_data_n_parallel_calls: Positive | None = None
    """tasks that decode images at the same time for each training worker; null: one for each CPU that
    training leaves free, at least one"""
    keep_decoded: Literal["auto"] | bool = "auto"
    """keep the decoded training images in memory, so that later epochs read no file; auto: where they take at most
    a quarter of Ray's object store"""

    @property
    def train_csvs(self) -> tuple[str, ...]:
        return tuple(self.csv_files_train)

    @property
    def train_weights(self) -> tuple[float, ...] | None:
        """Of each of `train_csvs`; None: all rows alike."""
        return tuple(self.csv_files_train.values()) if isinstance(self.csv_files_train, dict) else None

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError("is no encoding that Python knows; such as utf-8, latin-1, cp1252") from None
        return encoding

    @field_validator("csv_delimiter", "string_split_delimiter")
    @classmethod
    def _delimiter_can_split(cls, delimiter: str) -> str:
        if delimiter in '"\r\n':
            raise ValueError("a quote or a line end cannot be a delimiter")
        return delimiter

    @model_validator(mode="after")
    def _delimiters_differ(self) -> "Data":
        if self.csv_delimiter == self.string_split_delimiter:
            raise ValueError("csv_delimiter and string_split_delimiter are the same character")
        return self


class Image(Group):
    """What the network sees."""

    input_shape: tuple[Positive, Positive] = (32, 1024)
    """[height, greatest width] in pixels: height a multiple of 16 from 32 on; wider lines are shrunk"""
    input_channels: Literal[1, 3] = 1
    """1: grey, 3: RGB"""

    @field_validator("input_shape")
    @classmethod
    def _shape_fits_network(cls, shape: tuple[int, int]) -> tuple[int, int]:
        height, width = shape
        if height < 32 or height % 16:
            raise ValueError("the height must be a multiple of 16, from 32 on")
        if width < 8:
            raise ValueError("the greatest width must be 8 or more: what one frame needs")
        return shape


class Effect(Group):
    """One augmentation effect."""

    strength: Annotated[float, Field(ge=0)]


class Padding(Effect):
    strength: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    """border added on each side: up to this share of the height; 0: off"""


class Brightness(Effect):
    strength: Share = 0.1
    """brightness shifted by up to this share of the range; 0: off"""


class Contrast(Effect):
    strength: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """contrast multiplied by 1 ± up to this; 0: off"""


class Hue(Effect):
    strength: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """hue turned by up to this share of the colour circle; 0: off; colour only"""


class Saturation(Effect):
    strength: Share = 0.3
    """saturation multiplied by 1 ± up to this; 0: off; colour only"""


class Augmentation(Group):
    """Random changes to the training images; never to evaluation or prediction."""

    data_augmentation: bool = True
    """false: no augmentation at all"""
    data_augmentation_max_rotation: Annotated[float, Field(ge=0, le=0.785)] = 0.02
    """greatest rotation in radians, borders cropped; 0: off"""
    padding: Padding = Padding()
    brightness: Brightness = Brightness()
    contrast: Contrast = Contrast()
    hue: Hue = Hue()
    saturation: Saturation = Saturation()


class Model(Group):
    """The network: seven convolutions, bidirectional LSTM layers, one linear layer."""

    size: Literal["full", "half", "quarter"] = "full"
    """sets cnn_channels and lstm_size: full 64…512 and 256 (tf-crnn's), half 32…256 and 128,
    quarter 16…128 and 128"""
    cnn_channels: Annotated[tuple[Positive, ...], Field(min_length=7, max_length=7)] | None = None
    """output channels of the seven convolutions; null: by size"""
    lstm_size: Positive | None = None
    """units of an LSTM direction; null: by size"""
    lstm_layers: Positive = 2
    """bidirectional LSTM layers"""
    keep_prob: Annotated[float, Field(gt=0, le=1)] = 0.8
    """1 − dropout, before and between the LSTM layers and before the linear layer"""

    @property
    def channels(self) -> tuple[int, ...]:
        return self.cnn_channels or CHANNELS_OF_SIZE[self.size]

    @property
    def lstm_units(self) -> int:
        return self.lstm_size or LSTM_OF_SIZE[self.size]


class Training(Group):
    """How the network learns. Batch sizes are global: over all workers."""

    n_epochs: Positive = 60
    """passes over the training set; with max_minutes an upper bound"""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """wall time from the command's start, start-up, evaluation and export included; the schedule ends with it"""
    train_batch_size: Positive = 16
    """samples a step, over all workers"""
    batch_by: Literal["count", "area"] = "count"
    """count: every batch holds train_batch_size samples; area: as many as make train_batch_size of mean width, so that
    batches of narrow images hold more and those of wide ones fewer"""
    eval_batch_size: Positive = 64
    """samples an evaluation batch, over all workers"""
    optimizer: Literal["adamw", "adam", "rms", "ada"] = "adamw"
    """adamw; adam (beta1 0.5, as tf-crnn), rms (RMSprop), ada (Adadelta)"""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """learning rate; with one_cycle its peak"""
    schedule: Literal["one_cycle", "exponential", "constant"] = "one_cycle"
    """one_cycle: warm-up, then cosine to zero; exponential: tf-crnn's staircase decay"""
    warm_up: Share = 0.08
    """share of a one_cycle run in which the learning rate rises"""
    learning_decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.96
    """exponential: factor a stair; given without schedule it selects exponential"""
    learning_decay_steps: Positive = 1000
    """exponential: steps a stair; given without schedule it selects exponential"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """adamw's, on matrices and kernels only"""
    gradient_clip: Annotated[float, Field(gt=0)] | None = 5.0
    """greatest norm of the gradient; null: not clipped"""
    evaluate_every_epoch: Positive = 1
    """epochs between evaluations"""
    save_interval: Positive = 1000
    """steps between checkpoints; one is also saved after an evaluation, at most every 30 seconds, and at the end"""
    early_stopping: Positive | None = None
    """stop after so many evaluations without a better one; null: never"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast where the hardware computes in it, float32 elsewhere"""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 0
    """all random numbers of a run come from it"""

    @model_validator(mode="before")
    @classmethod
    def _decay_selects_exponential(cls, values: Any) -> Any:
        decay = {"learning_decay_rate", "learning_decay_steps"}
        if isinstance(values, dict) and "schedule" not in values and decay & values.keys():
            return {**values, "schedule": "exponential"}
        return values


class Decoding(Group):
    """From the network's log-probabilities to text."""

    method: Literal["beam", "greedy"] = "beam"
    """beam: prefix beam search, which also gives a score; greedy: the best unit of each frame, faster"""
    beam_width: Positive = 100
    """prefixes kept a frame"""
    num_beam_paths: Positive = 1
    """transcriptions returned an image, best first"""

    @model_validator(mode="after")
    def _beam_holds_paths(self) -> "Decoding":
        if self.method == "beam" and self.beam_width < max(2, self.num_beam_paths):
            raise ValueError("beam_width must be at least 2 and at least num_beam_paths")
        if self.method == "greedy" and self.num_beam_paths > 1:
            raise ValueError("greedy decoding finds one path: num_beam_paths needs method=beam")
        return self


class Cluster(Group):
    """Where training runs."""

    num_workers: Positive | tuple[Positive, Positive] | None = None
    """training workers, one a GPU or several on CPUs; [least, most]: as many as the cluster has room for, fewer after
    a node is lost and more when one comes; null: num_gpus if given, else 1"""
    num_gpus: Annotated[Whole, Field(ge=0)] | None = None
    """tf-crnn's key: so many GPU workers; where there is no GPU, CPU workers with a warning"""
    use_gpu: Literal["auto"] | bool = "auto"
    """auto: a GPU for each worker where the cluster has them"""
    cpus_per_worker: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """CPUs reserved for each worker; auto: an equal share, less what decoding needs"""
    max_failures: Annotated[Whole, Field(ge=0)] = 3
    """times that a run goes on by itself after a worker died"""
    wait_minutes: Annotated[float, Field(ge=0)] = 20.0
    """for nodes that the cluster's autoscaler has to start first"""

    @model_validator(mode="after")
    def _one_number_of_workers(self) -> "Cluster":
        if self.num_workers and self.num_gpus and self.num_workers != self.num_gpus:
            raise ValueError(f"num_workers={self.num_workers} and num_gpus={self.num_gpus} differ: keep one")
        return self

    @field_validator("num_workers")
    @classmethod
    def _least_first(cls, workers: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError("[least, most]: the first must not be the greater")
        return workers


class Configuration(Group):
    """A whole run."""

    output_model_dir: str = Field("output", min_length=1)
    """directory for the model, checkpoints and logs; must be new or empty unless restore_model"""
    restore_model: bool = False
    """go on from the last whole checkpoint in output_model_dir"""
    data: Data
    image: Image = Image()
    augmentation: Augmentation = Augmentation()
    model: Model = Model()
    training: Training = Training()
    decoding: Decoding = Decoding()
    cluster: Cluster = Cluster()

    def identity(self) -> dict[str, Any]:
        """The keys, by dotted path, without which a step of this run would be another: a resume keeps them."""
        training = ("optimizer", "train_batch_size", "batch_by", "eval_batch_size", "seed")
        kept = {f"training.{name}": getattr(self.training, name) for name in training}
        kept |= {"model.cnn_channels": self.model.channels, "model.lstm_size": self.model.lstm_units}
        kept["model.lstm_layers"] = self.model.lstm_layers
        kept |= {f"image.{name}": value for name, value in self.image}
        names = ("csv_files_eval", "csv_delimiter", "string_split_delimiter", "encoding", "unicode_form")
        kept |= {f"data.{name}": getattr(self.data, name) for name in names}
        # JSON's objects have no order, and the rows' numbers have.
        kept["data.csv_files_train"] = list(self.data.csv_files_train)
        kept["data.csv_files_train, weights"] = self.data.train_weights
        return json.loads(json.dumps(kept))
