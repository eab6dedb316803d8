"""TorchServe over gRPC: one body under a key of the map of Predictions (its inference.proto)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from google.protobuf.message import DecodeError

from gateway._generated import torchserve_pb2
from gateway.backends.channel import MAX_REPLY_BYTES, GrpcChannel
from gateway.backends.errors import TORCHSERVE, bad_reply, torchserve_rpc_error
from gateway.backends.http_pool import HttpPool
from gateway.backends.torchserve import Along, Handlers, TorchServe
from gateway.backends.torchserve_control import TorchServeControl
from gateway.backends.torchserve_keys import Authorization, KeyFile, NoKeys
from gateway.codecs.torchserve_payloads import Payload
from gateway.core.clock import Clock, SystemClock
from gateway.core.messages import ModelSpec

PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"


class TorchServeGrpc(TorchServe):
    """The backend for one TorchServe's gRPC inference port; `address` is host:port.

    Its version and its models' state are asked over REST, at `base_url` and `management_url`, because gRPC states
    neither.
    """

    def __init__(
        self,
        address: str,
        base_url: str,
        management_url: str,
        *,
        server: str | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        clock: Clock | None = None,
        token_file: Path | None = None,
        handlers: Handlers | None = None,
        versions: Mapping[str, Mapping[str, int]] | None = None,
        slots: int = 4,
    ) -> None:
        self._channel = GrpcChannel(
            address, server=TORCHSERVE, answered=torchserve_rpc_error, max_reply_bytes=max_reply_bytes
        )
        http = HttpPool(server=TORCHSERVE, max_reply_bytes=max_reply_bytes)
        keys = NoKeys() if token_file is None else KeyFile(token_file)
        control = TorchServeControl(http, base_url, management_url, server=server, keys=keys, versions=versions)
        super().__init__(http, control, keys=keys, handlers=handlers, slots=slots, clock=clock or SystemClock())

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST."""
        await self._channel.close()
        await super().close()

    async def _predict(
        self,
        model: ModelSpec,
        payload: Payload,
        body: bytes,
        timeout_s: float,
        authorization: Authorization,
        along: Along,
    ) -> bytes:
        message = torchserve_pb2.PredictionsRequest(
            model_name=model.name,
            model_version=await self._spelling(model, timeout_s) or "",
            input={payload.grpc_key: body},
        ).SerializeToString()
        metadata = along if authorization is None else {"authorization": authorization, **(along or {})}
        data = await self._channel.call(PREDICTIONS, message, timeout_s, metadata)
        try:
            return torchserve_pb2.PredictionResponse.FromString(data).prediction
        except DecodeError as exc:
            raise bad_reply(TORCHSERVE, "no PredictionResponse message") from exc
