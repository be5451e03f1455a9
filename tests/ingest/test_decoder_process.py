"""The process that decodes images."""

import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from raycrnn import config
from raycrnn.data.inputs import to_table
from raycrnn.errors import RaycrnnError
from raycrnn.ingest import decoder_process
from raycrnn.ingest.decoder_process import DecoderProcess
from raycrnn.prediction import image_stage

SETTINGS = ((config.Image(input_shape=(32, 256)), "horizontal"),)


def block(*paths) -> pa.Table:
    return to_table((str(path), str(path), None) for path in paths)


def start() -> DecoderProcess:
    return image_stage.start_decoder(SETTINGS)


def decode(blocks: list[pa.Table]) -> list[pa.Table]:
    decoder = start()
    try:
        return list(decoder.decode_ahead(blocks))
    finally:
        decoder.close()


def test_blocks_are_decoded_in_order(images, tmp_path):
    malformed = to_table(iter([("a", "a", "a quote is not closed")]))
    blocks = [block(images / "0.png", images / "gone.png"), malformed, block(images / "2.png")]
    assert decode(blocks) == [image_stage.decode_block(each, SETTINGS) for each in blocks]
    with pytest.raises(RaycrnnError, match="disk"):
        run_with(answer_with_an_error, blocks)


def run_with(answer, blocks: list[pa.Table]) -> list[pa.Table]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_process, "_answer", answer)
        return decode(blocks)


def answer_with_an_error(connection, decode):
    def fail(_):
        raise RaycrnnError("the disk is gone")

    decoder_process._answer(connection, fail)


def die_at_bad_images(connection, decode):
    """Answer, but die at an image whose name begins with "bad"."""

    def deadly(block):
        if any(os.path.basename(path).startswith(b"bad") for path in block["path"].to_pylist()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return decode(block)

    decoder_process._answer(connection, deadly)


def test_only_images_that_kill_the_process_are_lost(images):
    blocks = [block(images / "0.png"), block(images / "1.png", "bad.png", images / "2.png"), block(images / "3.png")]
    found = pa.concat_tables(run_with(die_at_bad_images, blocks)).to_pylist()
    assert [row["rejected"] for row in found] == [None, None, ["damaged image", "its decoder died"], None, None]
    expected = pa.concat_tables(decode([block(*(images / f"{number}.png" for number in range(4)))])).to_pylist()
    assert [row["pixels"] for row in found if row["pixels"]] == [row["pixels"] for row in expected]


SIGNALLED = """
import os, sys
from tests.ingest.test_decoder_process import block, start

decoder = start()
try:
    os.kill(decoder._process.pid, int(sys.argv[1]))
    (found,) = decoder.decode_ahead([block(sys.argv[2])])
    os.kill(decoder._process.pid, int(sys.argv[1]))
    (again,) = decoder.decode_ahead([block(sys.argv[2])])
finally:
    decoder.close()
assert found["rejected"].to_pylist() == again["rejected"].to_pylist() == [None]
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_job_or_terminal_does_not_end_the_process(images, number):
    # As in a command, whose first process multiprocessing starts in another way than later ones.
    command = [sys.executable, "-c", SIGNALLED, str(int(number)), str(images / "0.png")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")


def wait_at_the_second_image(connection, decode):
    """Answer, but never for an image that is called 1.png."""

    def slow(block):
        if block["path"][0].as_py().endswith(b"1.png"):
            signal.pause()
        return decode(block)

    decoder_process._answer(connection, slow)


def test_a_closed_decoder_starts_no_process_again(images, monkeypatch):
    monkeypatch.setattr(decoder_process, "_answer", wait_at_the_second_image)
    decoder = start()
    blocks = decoder.decode_ahead([block(images / "0.png"), block(images / "1.png")])
    next(blocks)
    decoder.close()
    assert [row["rejected"] for row in next(blocks).to_pylist()] == [["damaged image", "its decoder died"]]
    assert not decoder._process.is_alive()


def end_at_once(connection, decode):
    os._exit(3)


def test_a_process_that_does_not_start_is_an_error(images):
    with pytest.raises(RaycrnnError, match="ended with exit code 3 before it began"):
        run_with(end_at_once, [block(images / "0.png")])
