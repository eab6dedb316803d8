"""`POST /v2/models/{model}[/versions/{version}]/infer`: JSON, or JSON with binary tensor data behind it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.codecs import oip_binary, oip_json
from gateway.core.contract import ContractOf
from gateway.core.errors import Cause, GatewayError
from gateway.core.messages import InferenceRequest, InferenceResponse
from gateway.frontends.edge import Edge
from gateway.frontends.rest.answers import Answer
from gateway.frontends.rest.errors import OCTETS, OIP_SHAPE
from gateway.frontends.rest.inference import Door, InferenceEndpoint, model_spec
from gateway.frontends.rest.whole import Encode, Fields, RequestHeaders, Translate

_LENGTH = oip_binary.LENGTH_HEADER.lower().encode()


def oip_door() -> Door:
    """The protocol without its binary extension."""

    def decode(body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> InferenceRequest:
        return oip_json.decode_request(body, model_spec(path), contract_of)

    return Door("oip-rest", decode, oip_json.encode_response, OIP_SHAPE)


class OipEndpoint(InferenceEndpoint):
    """The inference route, whose body may hold binary data: then only its first part is JSON, and capped as that."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(edge, oip_door())

    def cap_of(self, headers: Fields) -> tuple[int, str]:
        """With binary data, as much as any body."""
        if any(name == _LENGTH for name, _ in headers):
            return self._edge.limits.body_bytes, "with binary data"
        return super().cap_of(headers)

    def translation(self, headers: RequestHeaders) -> Translate:
        """As JSON, or with binary data behind it."""
        _check_media_type(headers)
        stated = headers.values.get(_LENGTH)
        limits = self._edge.limits
        length = None
        if stated is not None:
            length = oip_binary.header_length(stated.decode("latin-1"), min(limits.json_bytes, limits.body_bytes))

        def translate(body: bytes, path: Mapping[str, str], contract_of: ContractOf) -> tuple[InferenceRequest, Encode]:
            decoded = oip_binary.decode_request(body, length, model_spec(path), contract_of)
            return decoded.request, lambda response: _answer(response, decoded.wishes)

        return translate


def _check_media_type(headers: RequestHeaders) -> None:
    """Raises MEDIA_TYPE for anything but JSON and bytes; the protocol's own clients often state nothing at all.

    A page in a browser can send neither `application/octet-stream` nor our length header without asking first.
    """
    stated = headers.values.get(b"content-type")
    if stated is None or stated.partition(b";")[0].strip().lower() == OCTETS.encode():
        headers.check_encoding()
        return
    try:
        headers.check_media_type()
    except GatewayError as exc:
        raise GatewayError(
            Cause.MEDIA_TYPE, f"{exc.detail}; tensors may also come as binary data, in {OCTETS}"
        ) from None


def _answer(response: InferenceResponse, wishes: oip_binary.BinaryWishes) -> Answer:
    encoded = oip_binary.encode_response(response, wishes)
    if encoded.header_length is None:
        return Answer(encoded.body)
    return Answer(encoded.body, OCTETS, ((_LENGTH, str(encoded.header_length).encode()),))
