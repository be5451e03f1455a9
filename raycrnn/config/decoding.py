"""The keys of decoding."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raycrnn.config.group import AUTO, Group, Integer, Location, Positive

LABELS = "labels"
"""The value of `decoding.language_model` that, besides `auto`, names no file."""


STRENGTH_KEYS = ("decoding.language_model_weight", "decoding.insertion_bonus")
"""The keys that say how much a language model counts."""


class Decoding(Group):
    """How the log-probabilities of the network become text."""

    method: Literal["beam", "greedy"] = "beam"
    """Decoding method. beam: prefix beam search, which also gives a score. greedy: the best class of each frame, which
    is faster."""
    beam_width: Positive = 100
    """Number of prefixes that beam search keeps at each frame; at least 2 and at least num_beam_paths."""
    num_beam_paths: Positive = 1
    """Number of transcriptions to return for each image, best first."""
    readings: Annotated[Integer, Field(ge=1, le=4)] | None = None
    """Number of times that a line is read, at different widths, as long as its confidence is below 0.9: as it is, then
    1.15, 0.87 and 1.3 times as wide. The reading with the highest confidence counts. By default 2, and 1 with greedy
    decoding, which is for speed."""
    language_model: Annotated[Location, Field(min_length=1)] | None = AUTO
    """Language model of beam search, which training stores in the model directory. labels: one that training estimates
    from the training labels. auto: the same, but stored only if it lowers the CER on the evaluation rows. Otherwise the
    path or URI of an ARPA file. null: none. auto is ignored with method=greedy and with a lexicon."""
    language_model_weight: Annotated[float, Field(ge=0)] = 0.5
    """Factor of the language model's log-probabilities, which are added to those of the network."""
    insertion_bonus: float = 1.0
    """Number that is added to the score of a transcription for each of its units, because a language model prefers
    short texts. Used only with a language model."""
    lexicon: Annotated[Location, Field(min_length=1)] | None = None
    """Lexicon: the path or URI of a text file in UTF-8 with one entry a line, to which transcriptions are restricted.
    Training copies it into the model directory. By default there is none."""
    lexicon_mode: Literal["entries", "words"] = "entries"
    """What the lexicon restricts. entries: the transcription is the most likely entry. words: every word of the line
    is an entry, and what stands between words is free."""
    lexicon_distance: Annotated[Integer, Field(ge=0)] | None = None
    """With lexicon_mode=entries: the largest edit distance, in units, between the entries that are considered and the
    transcription by greedy decoding. null: all entries are considered."""

    @property
    def most_readings(self) -> int:
        """The largest number of readings of a line."""
        return self.readings or (1 if self.method == "greedy" else 2)

    @property
    def tries_language_model(self) -> bool:
        """Whether a language model is used if a model has one, or if it proves useful in training."""
        return self.language_model == AUTO and self.method == "beam" and self.lexicon is None

    @model_validator(mode="after")
    def _beam_holds_paths(self) -> "Decoding":
        if self.method == "beam" and self.beam_width < max(2, self.num_beam_paths):
            raise ValueError("beam_width must be at least 2 and at least num_beam_paths")
        if self.method == "greedy" and self.num_beam_paths > 1:
            raise ValueError("greedy decoding finds one path only: num_beam_paths needs method=beam")
        if self.method == "greedy" and self.language_model not in (None, AUTO):
            raise ValueError("greedy decoding uses no language model: language_model needs method=beam")
        return self

    @model_validator(mode="after")
    def _lexicon_can_be_used(self) -> "Decoding":
        if self.lexicon_mode == "words" and self.method == "greedy":
            raise ValueError("lexicon_mode=words needs method=beam")
        if self.lexicon is not None and self.language_model not in (None, AUTO):
            raise ValueError("lexicon and language_model cannot be used together: set one of them to null")
        if self.lexicon_mode == "words" and self.lexicon_distance is not None:
            raise ValueError("lexicon_distance has an effect only with lexicon_mode=entries: remove one of them")
        return self
