"""Forms with files."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codecs.multipart import MAX_FIELDS, form_fields
from gateway.core.errors import Cause, GatewayError
from tests.unit.gateway.codecs.tensors import untimed

TYPE = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n'


def refusal(body: bytes, content_type: str = TYPE) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        form_fields(body, content_type)
    return caught.value


@untimed
@given(st.dictionaries(st.sampled_from(["data", "body", "x y"]), st.binary(max_size=64), min_size=1))
def test_what_a_client_puts_in_comes_out(fields: dict[str, bytes]) -> None:
    """Whatever bytes the files hold."""
    request = httpx.Request("POST", "http://gateway", files=fields)
    assert form_fields(request.read(), request.headers["content-type"]) == fields


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (PART + b"x\r\n--b--", TYPE),
        (PART + b"x\r\n--b--\r\n", TYPE),
        (b"\r\n" + PART + b"x\r\n--b--\r\n", TYPE),
        (PART.replace(b"--b\r", b"--b \t\r") + b"x\r\n--b--\r\n", TYPE),
        (PART.replace(b"Content-D", b"X: y\r\ncontent-d") + b"x\r\n--b--\r\n", TYPE),
        (PART + b"x\r\n--b--\r\n", 'Multipart/Form-Data; charset=utf-8; Boundary="b"'),
    ],
)
def test_forms_are_written_in_several_ways(body: bytes, content_type: str) -> None:
    """All of them allowed by the standard."""
    assert form_fields(body, content_type) == {"data": b"x"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", TYPE),
        (b"x", TYPE),
        (PART + b"x", TYPE),
        (PART + b"x\r\n--b", TYPE),
        (PART + b"x\r\n--b--more", TYPE),
        (b"preface\r\n" + PART + b"x\r\n--b--", TYPE),
        (PART + b"x\r\n--b--", "multipart/form-data"),
        (PART + b"x\r\n--b--", "multipart/form-data; boundary=other"),
        (b"--b\r\n\r\n\r\nx\r\n--b--", TYPE),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", TYPE),
        (b'--b\r\nContent-Disposition: attachment; name="data"\r\n\r\nx\r\n--b--', TYPE),
        (PART.replace(b"name", b"filename") + b"x\r\n--b--", TYPE),
        (b"--bb\r\n" + PART[5:] + b"x\r\n--b--", TYPE),
        (PART[:-4] + b"a" * 9000 + b"\r\n\r\nx\r\n--b--", TYPE),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, content_type: str) -> None:
    """With what is missing."""
    assert refusal(body, content_type).cause is Cause.UNPARSEABLE


def test_a_form_has_each_field_once_and_not_too_many() -> None:
    """A second one would be ignored by half of the world, the first one by the other."""
    assert refusal(PART + b"x\r\n" + PART + b"y\r\n--b--").cause is Cause.INVALID_INPUT
    many = b"".join(PART.replace(b'"data"', b'"d%d"' % number) + b"x\r\n" for number in range(MAX_FIELDS + 1))
    assert refusal(many + b"--b--").cause is Cause.INVALID_INPUT
    fewer = many[: many.rindex(b"--b\r\n")]
    assert len(form_fields(fewer + b"--b--", TYPE)) == MAX_FIELDS


@untimed
@given(st.lists(st.sampled_from([b"--b", b"--", b"\r\n", PART, b"x", b"\xff"]), max_size=12).map(b"".join))
def test_whatever_comes_is_a_form_or_an_error_of_ours(body: bytes) -> None:
    """Nothing else is raised."""
    cause = None
    try:
        form_fields(body, TYPE)
    except GatewayError as exc:
        cause = exc.cause
    assert cause in {None, Cause.UNPARSEABLE, Cause.INVALID_INPUT}
