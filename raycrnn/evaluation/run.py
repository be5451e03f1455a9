"""Evaluate one or two models on labelled images. Importing it imports no torch, so that decoding can start first."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raycrnn import config
from raycrnn.data import csv_files, csv_warnings
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.data.orientation import span_of
from raycrnn.data.rejections import Rejection, check_rejections, rejection_table
from raycrnn.data.unusual_images import UnusualImages
from raycrnn.errors import RaycrnnError, UsageError
from raycrnn.evaluation.analysis import EvaluatedLine, Evaluation, ModelInfo
from raycrnn.metrics import error_rates
from raycrnn.model import model_files
from raycrnn.model.transcription import Transcription
from raycrnn.prediction.job import PredictionJob, make_job
from raycrnn.prediction.pipeline import Executor, Result

if TYPE_CHECKING:
    from raycrnn.model.recognizer import Recognizer
    from raycrnn.model.voter import Voter

logger = logging.getLogger(__name__)


def evaluate_all(
    models: Sequence[str | Sequence[str]],
    csvs: Sequence[str],
    overrides: Sequence[str] = (),
    address: str | None = None,
    spans: bool = False,
) -> list[Evaluation]:
    """Transcribe the images of CSVs by each of several models and score them.

    A row that one of the models cannot read is left out for all. The CSVs are read with the settings of the first
    model, and the references are normalised with those of each model.

    Args:
        models: Model directories. Those of an inner sequence vote.
        spans: Whether to keep the positions of the units in the images.

    Raises:
        UsageError: A model or a CSV does not exist, or a CSV has no rows or labels.
        RaycrnnError: More than `data.max_rejected` of the images cannot be read.
    """
    if not csvs:
        raise UsageError("evaluate needs a labelled CSV: name at least one")
    jobs, configurations = _make_jobs(models, overrides, spans)
    settings = configurations[0].data
    files = csv_files.read_labelled_csvs(csvs, settings)
    pairs = [(file, row) for file in files for row in file.rows]
    unusual = [UnusualImages(each.image.input_shape, each.data.line_orientation) for each in configurations]
    paths = [file.resolve(row) for file, row in pairs if not row.problem]
    readings = []
    with Executor(address) as executor:
        executor.start_decoder(jobs[0])
        from raycrnn.model import voter

        recognizers = [voter.load(each.model, "cpu", overrides, each.language_model, each.lexicon) for each in jobs]
        for file in files:
            for warning in csv_warnings.warnings_of(file, settings, recognizers[0].alphabet.text_direction):
                logger.warning(warning)
        for job, recognizer, found in zip(jobs, recognizers, unusual, strict=True):
            readings.append(list(_read(executor.transcribe(job, paths), pairs, recognizer, found)))
    for warning in dict.fromkeys(warning for found in unusual for warning in found.warnings()):
        logger.warning(warning)
    unread = [next((each for each in row if isinstance(each, Rejection)), None) for row in zip(*readings, strict=True)]
    rejections = tuple(filter(None, unread))
    check_rejections("evaluation", rejections, len(pairs), settings)
    if rejections:
        logger.info(rejection_table(rejections))
    kept = [
        [line for line, gone in zip(lines, unread, strict=True) if not gone and isinstance(line, EvaluatedLine)]
        for lines in readings
    ]
    if not any(line.reference for line in kept[0]):
        raise RaycrnnError(f"{', '.join(csvs)}: all labels are empty: check the second column")
    return [
        Evaluation(_describe(model_files.describe(model), recognizer), tuple(lines), rejections)
        for model, recognizer, lines in zip(models, recognizers, kept, strict=True)
    ]


def _make_jobs(
    models: Sequence[str | Sequence[str]], overrides: Sequence[str], spans: bool
) -> tuple[list[PredictionJob], list[config.Configuration]]:
    """Return the job of each model, and the configuration of each; that of the first one if several vote."""
    # Computed first, so that workers notice if a model is replaced in the meantime.
    digests = list(map(model_files.file_digests, models))
    language_model = model_files.overridden_language_model(overrides)
    jobs, configurations = [], []
    for model, own in zip(models, digests, strict=True):
        members = model_files.read_configurations(model, overrides)
        lexicon = model_files.overridden_lexicon(model, overrides)
        jobs.append(make_job(model, members, overrides, own, spans, language_model=language_model, lexicon=lexicon))
        configurations.append(members[0])
    return jobs, configurations


def _describe(name: str, recognizer: "Recognizer | Voter") -> ModelInfo:
    from raycrnn.model import voter

    configuration, calibration = recognizer.configuration, recognizer.calibration
    decoding, (height, width) = configuration.decoding, configuration.image.input_shape
    members = voter.members_of(recognizer)
    weights = sum(parameter.numel() for each in members for parameter in each.network.parameters())
    vote = f"{len(members)} models, which vote; the first: " if len(members) > 1 else ""
    colour = "colour" if configuration.image.input_channels == 3 else "grey"
    fitted = f"calibrated on {calibration.samples:,} samples" if calibration.samples else "not calibrated"
    fused = ""
    if recognizer.language_model is not None:
        fused = (
            f", language model of order {recognizer.language_model.order} with weight "
            f"{decoding.language_model_weight:g} and bonus {decoding.insertion_bonus:g}"
        )
    beam = f"beam of {decoding.beam_width}{fused}" if decoding.method == "beam" else decoding.method
    if recognizer.lexicon is not None:
        near = "" if decoding.lexicon_distance is None else f", within {decoding.lexicon_distance} of greedy decoding"
        restricted = "words" if decoding.lexicon_mode == "words" else "texts"
        beam += f"; {restricted} from a lexicon of {len(recognizer.lexicon):,} entries{near}"
    facts = {
        "network": f"{vote}{configuration.model.size}, {weights:,} weights",
        "alphabet": f"{len(recognizer.alphabet):,} units",
        "images": f"{height} pixels high, at most {width:,} wide, {colour}",
        "lines": configuration.data.line_orientation.replace("_", " "),
        "decoding": beam,
        "confidences": fitted,
    }
    shown = {
        key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in recognizer.metrics.items()
    }
    scores = {f"{key} when it was trained": value for key, value in shown.items()}
    return ModelInfo(
        name,
        recognizer.alphabet,
        configuration.image.input_shape,
        calibration.temperature,
        calibration.samples,
        {**facts, **scores},
        configuration.data.line_orientation,
    )


def _read(
    results: Iterator[Result],
    pairs: Sequence[tuple[CsvFile, Row]],
    recognizer: "Recognizer | Voter",
    unusual: UnusualImages,
) -> Iterator[EvaluatedLine | Rejection]:
    """Yield the transcription of each row, or the rejection of its image, and count the unusual images."""
    for file, row in pairs:
        if row.problem:
            yield Rejection(file.path, row.line, row.path, "malformed row", row.problem)
            continue
        result = next(results)
        if result.rejected:
            yield Rejection(file.path, row.line, row.path, result.rejected.reason, result.rejected.detail)
        elif result.transcription and result.size:
            line = evaluated_line(file, row, result.transcription, result.size, recognizer)
            unusual.add(row.path, result.size, len(line.reference), result.is_blank)
            yield line


def evaluated_line(
    file: CsvFile, row: Row, transcription: Transcription, size: tuple[int, int], recognizer: "Recognizer | Voter"
) -> EvaluatedLine:
    """Return a row with its transcription.

    Args:
        file: The CSV of the row.
        row: The row.
        transcription: What the recognizer has read.
        size: Upright width and height of the image.
        recognizer: The model, or several that vote.
    """
    reference = csv_files.units_of(row, recognizer.configuration.data)
    units = tuple(recognizer.alphabet.decode(transcription.codes))
    spans = None
    if transcription.units is not None:
        orientation = recognizer.configuration.data.line_orientation
        boxes = [(unit.left, unit.top, unit.right, unit.bottom) for unit in transcription.units]
        spans = np.array([span_of(box, size, orientation) for box in boxes], np.int32).reshape(-1, 2)
    return EvaluatedLine(
        csv=file.path,
        number=row.line,
        path=row.path,
        place=file.resolve(row),
        reference=reference,
        units=units,
        confidence=transcription.confidence,
        counts=error_rates.score(reference, units),
        spans=spans,
    )
