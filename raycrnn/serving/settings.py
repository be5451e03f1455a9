"""Limits of the service, which the command line needs without FastAPI and torch."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_BODY_MB = 20.0
MAX_UPLOAD_MB = 256.0
BODY_SECONDS = 30.0


class Limits(BaseModel):
    """Limits on requests and on the queue of a replica.

    A request within its limits must fit into the queue. When only one of two related limits is given, the other one
    is adjusted to it.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_body_mb: float = Field(MAX_BODY_MB, gt=0)
    """Megabytes of a request's body."""
    max_pixels: int = Field(16_000_000, ge=64)
    """Pixels of an image."""
    max_images: int = Field(64, ge=1)
    """Images in a request."""
    max_waiting: int = Field(256, ge=1)
    """Images that wait in a replica; requests beyond that are refused at once."""
    max_upload_mb: float = Field(MAX_UPLOAD_MB, gt=0)
    """Megabytes of the bodies of all requests in progress in a replica."""
    body_seconds: float = Field(BODY_SECONDS, gt=0)
    """Seconds within which a request's body must arrive."""

    max_lexicon_entries: int = Field(10_000, ge=0)
    """Entries of the lexicon of a request; 0 refuses lexicons in requests."""
    max_lexicon_characters: int = Field(200_000, ge=0)
    """Characters of the lexicon of a request."""

    @model_validator(mode="after")
    def _reconcile(self) -> "Limits":
        for per_request, in_total in (("max_images", "max_waiting"), ("max_body_mb", "max_upload_mb")):
            request, total = getattr(self, per_request), getattr(self, in_total)
            if request <= total:
                continue
            if {per_request, in_total} <= self.model_fields_set:
                raise ValueError(f"{per_request}={request:g} must not be greater than {in_total}={total:g}")
            if per_request in self.model_fields_set:
                setattr(self, in_total, request)
            else:
                setattr(self, per_request, total)
        return self
