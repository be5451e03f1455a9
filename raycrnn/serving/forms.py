"""Multipart bodies of requests: the images in them, and a lexicon."""

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from raycrnn.data import csv_files, file_kinds
from raycrnn.serving.limits import RequestError
from raycrnn.serving.service import Upload
from raycrnn.serving.settings import Limits

BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")
"""The boundary of a multipart body (RFC 2046, section 5.1.1)."""

MAX_FORM_FIELDS = 100
"""Fields beside the files in a multipart body. All but `LEXICON` are ignored; browsers and frameworks add some."""

LEXICON = "lexicon"
"""Name of the part that holds a lexicon."""


@dataclass(frozen=True)
class Form:
    """What a request asks for."""

    uploads: list[Upload]
    is_multipart: bool
    lexicon: tuple[str, ...] | None = None
    """The entries to which readings are restricted; None if the request has none."""


async def parse_multipart(content_type: str, body: bytes, limits: Limits) -> Form:
    """Return the files and the lexicon in a multipart body (RFC 7578).

    Starlette's parser is called with a content type of our own, not through `Request.form`: there, the request's
    `charset` chooses any Python codec for its texts. Punycode takes quadratic time (150 KB block the event loop for
    3 s), and utf-7 and unicode_escape yield lone surrogates. It also writes files over 1 MB to disk.

    Raises:
        RequestError: The body is malformed, has too many files or none, or its lexicon exceeds a limit.
    """
    max_images = limits.max_images
    too_many = RequestError(422, "too many images", f"a request may have at most {max_images} images (max_images)")
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"").decode("latin-1")
    if not BOUNDARY.fullmatch(boundary):
        detail = "the content type has no valid boundary (RFC 2046): let the HTTP client set it"
        raise RequestError(422, "malformed multipart body", detail)
    if f"--{boundary}--".encode("latin-1") not in body:
        # Without it, the parser would leave out the last part.
        detail = "the body has no closing boundary: it is incomplete, or its boundary is not that of the content type"
        raise RequestError(422, "malformed multipart body", detail)

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'})
    # With one file more than allowed, a request with too many files differs from a malformed one. Another file may be
    # the lexicon.
    parser = MultiPartParser(headers, chunks(), max_files=max_images + 2, max_fields=MAX_FORM_FIELDS)
    # The body is in memory already, so its parts need no files on disk. A long lexicon has a limit of its own.
    parser.spool_max_size = parser.max_part_size = len(body) + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        detail = getattr(error, "message", None) or str(error) or type(error).__name__
        if "files" in detail:
            raise too_many from None
        raise RequestError(422, "malformed multipart body", detail) from None
    try:
        lexicon = await _read_lexicon([part for name, part in form.multi_items() if name == LEXICON], limits)
        files = [part for name, part in form.multi_items() if isinstance(part, UploadFile) and name != LEXICON]
        if len(files) > max_images:
            raise too_many
        if not files:
            detail = "the multipart body has no file: send each image as a part with a filename"
            for name, value in [item for item in form.multi_items() if item[0] != LEXICON][:1]:
                text = str(value).encode("utf-8", "replace")
                found = file_kinds.describe(text[: file_kinds.HEAD_BYTES], len(text))
                detail += f"; the part {name[:100]!r} has no filename and contains {found.detail}"
            raise RequestError(422, "no image", detail)
        uploads = [Upload(_escape_surrogates(part.filename or ""), await part.read()) for part in files]
        return Form(uploads, is_multipart=True, lexicon=lexicon)
    finally:
        await form.close()


def _escape_surrogates(name: str) -> str:
    """Escape what UTF-8 cannot encode."""
    return name.encode("utf-8", "backslashreplace").decode()


async def _read_lexicon(parts: Sequence[UploadFile | str], limits: Limits) -> tuple[str, ...] | None:
    """Return the entries of a lexicon, a field or a file with one a line; None if there is none.

    Raises:
        RequestError: There are several parts, no entries, too many or too long ones, or the text is not UTF-8.
    """
    if not parts:
        return None
    if len(parts) > 1:
        raise RequestError(422, "wrong lexicon", f"{len(parts)} parts have the name lexicon: send one, an entry a line")
    [part] = parts
    data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else await part.read()
    # Both limits are checked before the entries are split.
    entries = data.count(b"\n") + 1
    if len(data) > 4 * limits.max_lexicon_characters or entries > 2 * limits.max_lexicon_entries + 2:
        raise _too_long(limits)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(422, "wrong lexicon", "the text is not UTF-8") from None
    lines = tuple(line for line in csv_files.split_lines(text) if line)
    if not lines:
        raise RequestError(422, "wrong lexicon", "the part lexicon has no entries: send one a line, or leave it out")
    if len(lines) > limits.max_lexicon_entries or len(text) > limits.max_lexicon_characters:
        raise _too_long(limits)
    return lines


def _too_long(limits: Limits) -> RequestError:
    detail = (
        f"a lexicon may have at most {limits.max_lexicon_entries:,} entries (max_lexicon_entries) and "
        f"{limits.max_lexicon_characters:,} characters (max_lexicon_characters)"
    )
    return RequestError(413, "lexicon too large", detail)
