"""Forms as browsers, curl -F and requests send files (RFC 7578): fields by name, their bytes as they are."""

from __future__ import annotations

import re

from gateway.codecs.fields import shown
from gateway.core.errors import Cause, GatewayError

MEDIA_TYPE = "multipart/form-data"
MAX_FIELDS = 64
MAX_HEADER_BYTES = 8192

# RFC 2046: up to 70 of these, quoted or not.
_BOUNDARY = re.compile(r"""(?:^|;)\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s";,]{1,70}))""", re.IGNORECASE)
_NAME = re.compile(r';\s*name="([^"]*)"', re.IGNORECASE)


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """The fields of a form; `content_type` is the header that names its boundary.

    Raises UNPARSEABLE where the body is no such form, INVALID_INPUT where a field comes twice.
    """
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise _broken("its content type names no boundary")
    delimiter = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    # Each delimiter but a first one at the very start has a line break before it, which belongs to it.
    before, *parts = (b"\r\n" + body).split(b"\r\n" + delimiter, MAX_FIELDS + 2)
    if len(parts) > MAX_FIELDS + 1:
        raise GatewayError(Cause.INVALID_INPUT, f"the form has more than {MAX_FIELDS} fields")
    if not parts or before.strip() or not parts[-1].startswith(b"--") or parts[-1].strip() != b"--":
        raise _broken("its boundaries do not enclose it")
    fields: dict[str, bytes] = {}
    for part in parts[:-1]:
        name, value = _field(part)
        if name in fields:
            raise GatewayError(Cause.INVALID_INPUT, f"the form has field '{shown(name)}' twice; expected it once")
        fields[name] = value
    return fields


def _field(part: bytes) -> tuple[str, bytes]:
    # White space may follow a delimiter on its line.
    line, _, rest = part.partition(b"\r\n")
    head, separator, value = rest.partition(b"\r\n\r\n")
    if line.strip(b" \t") or not separator or len(head) > MAX_HEADER_BYTES:
        raise _broken("a field has no headers")
    for header in head.decode("utf-8", "replace").split("\r\n"):
        key, _, text = header.partition(":")
        if key.strip().lower() == "content-disposition" and text.strip().lower().startswith("form-data"):
            named = _NAME.search(text)
            if named is not None:
                return named[1], value
    raise _broken("a field has no name")


def _broken(reason: str) -> GatewayError:
    return GatewayError(Cause.UNPARSEABLE, f"the body is no form (multipart/form-data): {reason}")
