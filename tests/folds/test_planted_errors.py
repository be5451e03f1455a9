"""Wrong labels among the training rows are at the start of the list of suspects."""

import random
from pathlib import Path

import pytest
import torch

from raycrnn import config
from raycrnn.config import Training
from raycrnn.data.csv_files import CsvFile, Row
from raycrnn.folds import out_of_fold, suspects
from raycrnn.model.recognizer import Recognizer
from raycrnn.training.learner import Learner
from tests.conftest import GLYPHS, draw, words
from tests.training.test_learner import ALPHABET, CPU, SMALL, make_batch, network

ROWS, PLANTED, STEPS, BATCH = 160, 5, 160, 40


def plant(labels: list[str]) -> dict[int, str]:
    """Return a wrong label for some lines: a unit replaced, a unit left out, or the label of another line."""
    generator, wrong = random.Random(1), {}
    for count, number in enumerate(generator.sample(range(ROWS), PLANTED)):
        label = list(labels[number])
        place = generator.randrange(len(label))
        if count % 3 == 0:
            label[place] = generator.choice([unit for unit in GLYPHS if unit != label[place]])
        elif count % 3 == 1:
            del label[place]
        else:
            label = list(next(other for other in labels if other != labels[number]))
        wrong[number] = "".join(label)
    return wrong


def train_fold(texts: dict[int, str], labels: dict[int, str], path: Path) -> None:
    """Train on images of texts with these labels, and save the model."""
    learner = Learner(network(), Training(learning_rate=3e-3, precision="fp32"), CPU)
    numbers = list(texts)
    for step in range(STEPS):
        chosen = random.Random(step).sample(numbers, BATCH)
        images, codes = (
            make_batch([texts[number] for number in chosen]),
            make_batch([labels[number] for number in chosen]),
        )
        batch = type(images)(images.images_BCHW, images.widths_B, codes.codes_S, codes.lengths_B, images.rows_B)
        learner.train_step(batch, STEPS - step)
    tree = {"data": {"csv_files_train": "a.csv"}, "model": {"cnn_channels": SMALL, "lstm_size": 32}}
    Recognizer(learner.network, config.parse(tree), ALPHABET, {}).save(path)


@pytest.mark.long
def test_planted_errors_are_among_the_first_six_percent(tmp_path):
    torch.manual_seed(0)
    texts = words(ROWS)
    wrong = plant(texts)
    labels = {number: wrong.get(number, text) for number, text in enumerate(texts)}
    rows = []
    for number, text in enumerate(texts):
        draw(text).save(tmp_path / f"{number}.png")
        rows.append(Row(f"{number}.png", labels[number], number + 1))
    folds = [1 + number % 2 for number in range(ROWS)]
    for fold in (1, 2):
        own = {number: text for number, text in enumerate(texts) if folds[number] != fold}
        train_fold(own, labels, tmp_path / f"fold-{fold}")
    file = CsvFile(str(tmp_path / "labels.csv"), rows)
    lines = out_of_fold.read([file], [folds], [str(tmp_path / f"fold-{fold}") for fold in (1, 2)])
    first = suspects.by_suspicion(list(lines))[: round(0.06 * ROWS)]
    found = {each.line.number - 1 for each in first} & set(wrong)
    assert len(found) >= 0.9 * PLANTED
