"""The verb predict: transcribe images with a model, many of them with Ray Data."""

import logging
from dataclasses import replace
from typing import Annotated

from pydantic import AliasChoices, Field
from pydantic_settings import CliPositionalArg

from raycrnn.cli import Command, Metavar
from raycrnn.config import is_override
from raycrnn.prediction.job import Format, make_job

# Not __name__, which is "__main__" under python -m.
logger = logging.getLogger("raycrnn.predict")


class Predict(Command):
    """Transcribe images, given as files, folders or CSVs (whose labels are ignored).

    Writes one row per image (as labels, per image that was read), in input order: path, text, score and error, then
    text_2, score_2 and so on, as many as decoding.num_beam_paths. The score is the difference in log-probability to the
    second-best transcription (empty for greedy decoding); score_2 and so on are log-probabilities relative to the best
    one. JSON Lines and Parquet also contain the confidence, which is the probability that a text is exact.
    """

    model: CliPositionalArg[str]
    """Model directory, such as output/model, or latin or latin48, models for Latin script that come with raycrnn. If
    several follow each other, or if it holds several, they vote."""
    inputs: CliPositionalArg[Annotated[list[str], Metavar("INPUT")]] = Field(min_length=1)
    """Images, folders and .csv files, and settings of decoding as KEY=VALUE, such as decoding.num_beam_paths=3."""
    output: Annotated[str | None, Metavar("FILE")] = Field(None, validation_alias=AliasChoices("o", "output"))
    """File to write. Its suffix selects the format: .csv or .txt (CSV), .jsonl (JSON Lines) or .parquet. Default: CSV
    on stdout."""
    overwrite: bool = False
    """Replace an existing output, and the partial output of a run that was stopped."""
    resume: bool = False
    """Resume a run with the same output that was stopped."""
    format: Format | None = None
    """Format of the output. labels is a CSV to correct and train on, without images that cannot be read or whose text
    a label cannot hold. Default: the one that the name of the output selects."""
    confidence: bool = False
    """Add a column with the confidence to CSV. JSON Lines and Parquet always have it."""
    spans: bool = False
    """Add the position in the image and the confidence of each unit to JSON Lines and Parquet."""
    replicas: int | None = Field(None, ge=1)
    """Number of copies of the model that run in parallel. Default: one per GPU, or without GPUs one per CPU."""
    address: Annotated[str | None, Metavar("ADDRESS")] = None
    """Ray cluster to run on. Default: the environment variable RAY_ADDRESS, else this process for few images and a
    local Ray for many."""

    def run(self) -> int:
        # Here, because `--help` needs none of them.
        from raycrnn.data.inputs import list_inputs
        from raycrnn.model.model_files import (
            file_digests,
            leading_models,
            overridden_language_model,
            overridden_lexicon,
            read_configurations,
        )
        from raycrnn.prediction.run import Output, predict

        overrides = [text for text in self.inputs if is_override(text)]
        models, names = leading_models(self.model, [text for text in self.inputs if text not in overrides])
        # First, so that a model that is replaced from here on is noticed.
        digests = file_digests(models)
        configurations = read_configurations(models, overrides)
        configuration = configurations[0]
        output = Output(self.output, self.resume, self.overwrite)
        spans = self.spans or self.format == "labels"
        layout = output.layout(self.format, configuration.decoding.num_beam_paths, self.confidence, self.spans)
        inputs = list_inputs(names, configuration.data)
        output.check(models, names, inputs)
        if layout.format == "labels":
            layout = replace(layout, labels=output.label_format(inputs, configuration.data))
        language_model, lexicon = overridden_language_model(overrides), overridden_lexicon(models, overrides)
        job = make_job(models, configurations, overrides, digests, spans, self.replicas, language_model, lexicon)
        read = predict(job, configuration, inputs, output, layout, self.address)
        if read is None:
            return 130
        logger.info(f"{read} of {len(inputs)} images read")
        return 0 if read else 1


if __name__ == "__main__":
    Predict.main()
