"""A small model, and a client of a service that reads with it."""

import pytest

from raycrnn.serving.service import Service
from raycrnn.serving.settings import Limits
from tests.model.test_recognizer import recognizer
from tests.serving.samples import serving


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("service") / "model"
    recognizer(num_beam_paths=1).save(path)
    return path


@pytest.fixture(scope="module")
def client(model):
    limits = Limits(max_body_mb=0.2, max_pixels=200_000, max_images=4, body_seconds=1)
    with serving(Service(str(model), limits=limits)) as http_client:
        yield http_client
