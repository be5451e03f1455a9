"""The server that `bench serve` compares with: FastAPI, uvicorn and torch in one process, one image per call."""

import sys

import torch
import uvicorn
from fastapi import FastAPI, Request

from raycrnn.model.recognizer import Recognizer


def main(model: str, port: str, threads: str) -> None:
    """Serve a model directory on a port of this machine."""
    torch.set_num_threads(int(threads))
    recognizer = Recognizer.load(model, "cpu")
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict:
        return {}

    # In the event loop: calls in several threads would compete for the CPU and be slower.
    @app.post("/predict")
    async def predict(request: Request) -> dict:
        transcription = recognizer([await request.body()], spans=False)[0]
        return {"text": transcription.text, "confidence": transcription.confidence}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
