"""From CSV to batches: every row once an epoch, the same for any number of workers, only unusable rows left out."""

import tracemalloc
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch

from raycrnn import config
from raycrnn.cluster import TrainingAllocation
from raycrnn.data import batch_order, csv_files, image_files
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.augment import Augmenter
from raycrnn.data.image import WIDTH_STEP, collate, fitted_width, measure, prepare
from raycrnn.errors import StorageError
from raycrnn.ingest import batches, prefetch, sample_table
from raycrnn.ingest.batches import eval_batch_spec, make_block, train_batch_spec
from raycrnn.ingest.stream import BatchStream
from tests.conftest import GLYPHS, draw, words, write_set

pytestmark = pytest.mark.ray
ALPHABET = Alphabet(tuple(GLYPHS))
MAKE_BATCH = batches.make_batch
ALLOCATION = TrainingAllocation(
    num_workers=1, use_gpu=False, cpus_per_worker=1, threads=1, decode_tasks=1, cpus_per_decode_task=0.25
)


def settings(csv, **training) -> config.Configuration:
    return config.parse({"data": {"csv_files_train": str(csv)}, "training": {"train_batch_size": 8, **training}})


def put(configuration, training=True):
    files = csv_files.read_labelled_csvs(configuration.data.train_csvs, configuration.data)
    return sample_table.put_samples(files, ALPHABET, configuration, training=training)[0]


def read(configuration, samples, first, stop, rank=0, world_size=1, evaluation=False):
    make = eval_batch_spec if evaluation else train_batch_spec
    spec = make(configuration, samples, rank, world_size)
    stream = BatchStream(spec, ALLOCATION, first, stop)
    return list(stream), stream


def test_an_epoch_has_every_row_once_and_epochs_differ(local_ray, tmp_path):
    labels = words(50)
    configuration = settings(write_set(tmp_path, labels))
    samples = put(configuration)
    batches, _ = read(configuration, samples, 0, 14)
    for half in (batches[:7], batches[7:]):
        assert sorted(len(batch) for batch in half) == [7] * 6 + [8]
    epochs = [torch.cat([batch.rows_B for batch in half]).tolist() for half in (batches[:7], batches[7:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    for batch in batches:
        texts = ["".join(ALPHABET.decode(codes)) for codes in batch.labels()]
        assert texts == [labels[row] for row in batch.rows_B]


@pytest.mark.parametrize("number_of_epoch", [1, 15])
def test_images_equal_those_of_a_plain_loop(local_ray, tmp_path, number_of_epoch):
    """The expected images are made without Ray."""
    csv = write_set(tmp_path, words(30))
    configuration = settings(csv, seed=5)
    samples = put(configuration)
    batches, _ = read(configuration, samples, 4 * number_of_epoch, 4 * number_of_epoch + 4)
    augmenter = Augmenter(configuration.augmentation, 1, 5)
    file = csv_files.read_csv(csv)
    paths = [file.resolve(row) for row in file.rows]
    widths = np.array([fitted_width(measure(path), (32, 1024)) for path in paths])
    epoch = batch_order.train_epoch(widths, 8, 5, number_of_epoch)
    for number, batch in enumerate(batches):
        rows, _ = epoch[number]
        arrays = [
            prepare(image_files.read_bytes(paths[row]), (32, 1024), 1, augmenter.for_sample(number_of_epoch, int(row)))
            for row in rows
        ]
        images_BCHW, widths_B = collate(arrays)
        assert batch.rows_B.tolist() == rows.tolist()
        assert batch.widths_B.tolist() == widths_B.tolist()
        assert np.array_equal(batch.images_BCHW.numpy(), images_BCHW)


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_divide_each_batch_of_a_single_worker(local_ray, tmp_path, world_size):
    configuration = settings(write_set(tmp_path, words(20)))
    samples = put(configuration)
    alone, _ = read(configuration, samples, 0, 3)
    shares = [read(configuration, samples, 0, 3, rank, world_size)[0] for rank in range(world_size)]
    for number, batch in enumerate(alone):
        rows = [row for share in shares for row in share[number].rows_B.tolist()]
        assert sorted(rows) == sorted(batch.rows_B.tolist())


def test_a_worker_without_rows_still_gets_every_batch(local_ray, tmp_path):
    configuration = settings(write_set(tmp_path, ["abc"]))
    samples = put(configuration)
    (batch,), _ = read(configuration, samples, 0, 1, rank=1, world_size=2)
    assert len(batch) == 0
    assert batch.images_BCHW.shape == (1, 1, 32, WIDTH_STEP)


def test_a_stream_can_start_at_any_batch(local_ray, tmp_path):
    configuration = settings(write_set(tmp_path, words(40)))
    samples = put(configuration)
    complete, _ = read(configuration, samples, 0, 10)
    rest, _ = read(configuration, samples, 7, 10)
    assert [b.rows_B.tolist() for b in rest] == [b.rows_B.tolist() for b in complete[7:]]
    assert all(torch.equal(a.images_BCHW, b.images_BCHW) for a, b in zip(rest, complete[7:], strict=True))


def test_only_unusable_rows_are_left_out_with_their_reasons(local_ray, tmp_path):
    csv = write_set(tmp_path, words(30))
    (tmp_path / "text.png").write_text("no image")
    data = (tmp_path / "images" / "labels_3.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    bad = {
        "nowhere.png;abc": "no such file",
        "text.png;abc": "not an image",
        "cut.png;abc": "damaged image",
        "images/labels_0.png;abcX": "unknown unit",
        "images/labels_1.png;": "empty label",
        '"images/labels_2.png;abc': "malformed row",
        f"images/labels_4.png;{'ab' * 90}": "label too long",
    }
    csv.write_text(csv.read_text() + "\n".join(bad) + "\n")
    configuration = settings(csv)
    samples = put(configuration)
    batches, stream = read(configuration, samples, 0, batch_order.batch_count(samples.usable, 8))
    found = {r.line: r.reason for r in (*samples.rejections, *stream.rejected.values())}
    assert found == dict(enumerate(bad.values(), 31))
    assert sorted(row for batch in batches for row in batch.rows_B.tolist()) == list(range(30))


def test_evaluation_keeps_unknown_units_and_labels_that_are_too_long(local_ray, tmp_path):
    csv = write_set(tmp_path, ["abc", "de"])
    csv.write_text(f"images/labels_0.png;aXc\nimages/labels_1.png;{'d' * 200}\n")
    configuration = settings(csv)
    samples = put(configuration, training=False)
    (batch,), _ = read(configuration, samples, 0, 1, evaluation=True)
    codes = dict(zip(batch.rows_B.tolist(), batch.labels(), strict=True))
    assert codes == {0: [0, csv_files.UNKNOWN, 2], 1: [3] * 200}


def test_an_error_in_the_prefetching_thread_reaches_the_consumer():
    def broken():
        yield 1
        raise OSError("gone")

    prefetcher = prefetch.Prefetcher(broken, 2)
    assert next(prefetcher) == 1
    with pytest.raises(OSError, match="gone"):
        next(prefetcher)
    with pytest.raises(OSError, match="gone"):
        next(prefetcher)
    prefetcher.close()


def test_every_batch_has_the_share_of_each_weighted_csv(local_ray, tmp_path):
    large = write_set(tmp_path, words(90), "many.csv")
    small = write_set(tmp_path, words(6, seed=1), "few.csv")
    tree = {"data": {"csv_files_train": {str(large): 1, str(small): 3}}, "training": {"train_batch_size": 8}}
    configuration = config.parse(tree)
    samples = put(configuration)
    batches, _ = read(configuration, samples, 0, 12)
    shares = [int((batch.rows_B >= 90).sum()) for batch in batches]
    assert all(share in (5, 6, 7) for share in shares)
    assert sum(shares) == 72
    images = [
        image for batch in batches for image, row in zip(batch.images_BCHW, batch.rows_B, strict=True) if row == 90
    ]
    assert len(images) == 12
    assert len({image.numpy().tobytes() for image in images}) == 12


def test_a_stream_counts_its_padding(local_ray, tmp_path):
    configuration = settings(write_set(tmp_path, words(40)))
    batches, stream = read(configuration, put(configuration), 0, 5)
    real = sum(int(batch.widths_B.sum()) for batch in batches)
    padded = sum(batch.images_BCHW.shape[3] * len(batch) for batch in batches)
    assert (stream.pixels, stream.padding) == (padded, padded - real)


@pytest.mark.parametrize("failing", [1, 5])
def test_batches_are_empty_from_the_one_that_object_storage_does_not_deliver(local_ray, tmp_path, monkeypatch, failing):
    """The worker makes the first four batches itself, and decoding tasks the others."""

    def deliver_nothing(*arguments):
        raise StorageError("s3://lines/a.png: SLOW_DOWN")

    def make_batch(spec, number):
        with pytest.MonkeyPatch.context() as patch:
            if number >= failing:
                patch.setattr(image_files, "prefetching_reader", deliver_nothing)
            return MAKE_BATCH(spec, number)

    def make_block_in_outage(spec, first, stop):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "make_batch", make_batch)
            return make_block(spec, first, stop)

    monkeypatch.setattr(batches, "make_block", make_block_in_outage)
    configuration = settings(write_set(tmp_path, words(80)))
    stream = BatchStream(train_batch_spec(configuration, put(configuration), 0, 1), ALLOCATION, 0, 10)
    with closing(iter(stream)) as found:
        assert all(len(batch) for batch in islice(found, failing)) and stream.problem is None
        for batch in islice(found, 12):
            assert len(batch) == 0 and batch.images_BCHW.shape == (1, 1, 32, WIDTH_STEP)
    assert stream.problem == "s3://lines/a.png: SLOW_DOWN" and not stream.rejected


def test_images_behind_uris_are_batched_like_local_ones_and_replaced_ones_reported_once(local_ray, tmp_path):
    csv = write_set(tmp_path, words(20))
    local = settings(csv)
    (tmp_path / "uris.csv").write_text(csv.read_text().replace("images/", f"file://{tmp_path}/images/"))
    remote = settings(tmp_path / "uris.csv")
    samples, reported = put(remote), []
    assert samples.decoded_bytes == put(local).decoded_bytes
    stream = BatchStream(train_batch_spec(remote, samples, 0, 1), ALLOCATION, 0, 3, report_changed=reported.append)
    for batch, expected in zip(list(stream), read(local, put(local), 0, 3)[0], strict=True):
        assert torch.equal(batch.images_BCHW, expected.images_BCHW)
    assert reported == []
    for number in (3, 5):
        draw("a much longer line").save(tmp_path / "images" / f"labels_{number}.png")
    assert sum(map(len, stream)) == 20
    assert len(reported) == 1 and reported[0] in {f"file://{tmp_path}/images/labels_{n}.png" for n in (3, 5)}


def test_making_blocks_leaks_no_memory(local_ray, tmp_path):
    """pyarrow never frees memory views; tracemalloc sees NumPy's memory."""
    configuration = settings(write_set(tmp_path, words(40)))
    spec = train_batch_spec(configuration, put(configuration), 0, 1)
    size = make_block(spec, 0, 5).nbytes
    tracemalloc.start()
    try:
        for epoch in range(30):
            make_block(spec, 5 * epoch, 5 * epoch + 5)
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 5 * size
