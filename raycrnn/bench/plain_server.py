"""What `bench serve` is held against: FastAPI, uvicorn and torch in one process, one image a call."""

import sys

import torch
import uvicorn
from fastapi import FastAPI, Request

from raycrnn.model.recognizer import Recognizer


def main(model: str, port: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    recognizer = Recognizer.load(model, "cpu")
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict:
        return {}

    # In the event loop: calls that wait for each other in threads would share the CPU's and be slower.
    @app.post("/predict")
    async def predict(request: Request) -> dict:
        transcription = recognizer([await request.body()], spans=False)[0]
        return {"text": transcription.text, "confidence": transcription.confidence}

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
