"""The ports of a server without models, in this process."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import grpc
import pytest
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from serving.tfserving.savedmodel_server.doors import open_doors, read_settings
from serving.tfserving.savedmodel_server.flags import Flags
from serving.tfserving.savedmodel_server.manager import Manager
from serving.tfserving.savedmodel_server.runtime import Runtime
from tests.unit.serving.tfserving.savedmodel_server.fakes import FakeLoader
from tests.unit.serving.tfserving.savedmodel_server.process import free_ports


async def opened(stack: AsyncExitStack, flags: Flags) -> None:
    """The doors that these flags open, until the stack is left."""
    loader = stack.enter_context(ThreadPoolExecutor(1))
    manager = Manager(FakeLoader(), loader, loader)
    await stack.enter_async_context(open_doors(flags, read_settings(flags), manager, Runtime()))


async def status_over_grpc(target: str, model: str = "m") -> grpc.StatusCode:
    """What gRPC says of a model that is not there."""
    async with grpc.aio.insecure_channel(target) as channel:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": model})
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request)
        return caught.value.code()


async def test_one_port_for_both_is_grpcs(caplog: pytest.LogCaptureFixture) -> None:
    """REST is left out with TensorFlow Serving's word for it."""
    port, _ = free_ports()
    async with AsyncExitStack() as stack:
        await opened(stack, Flags(port=port, rest_api_port=port, bind_address="127.0.0.1"))
        assert await status_over_grpc(f"127.0.0.1:{port}") is grpc.StatusCode.NOT_FOUND
    assert "server_options.http_port cannot be same as grpc_port." in caplog.text


async def test_a_socket_needs_no_port(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the log says where gRPC is."""
    caplog.set_level(logging.INFO)
    async with AsyncExitStack() as stack:
        await opened(stack, Flags(port=0, grpc_socket_path=f"{tmp_path}/s"))
        assert await status_over_grpc(f"unix:{tmp_path}/s") is grpc.StatusCode.NOT_FOUND
    assert f"gRPC at unix:{tmp_path}/s" in caplog.text


async def test_channel_arguments_reach_grpc(tmp_path: Path) -> None:
    """A message beyond the size that they allow is refused by gRPC itself."""
    flags = Flags(
        port=0,
        grpc_socket_path=f"{tmp_path}/s",
        grpc_channel_arguments="grpc.max_receive_message_length=64",
    )
    async with AsyncExitStack() as stack:
        await opened(stack, flags)
        assert await status_over_grpc(f"unix:{tmp_path}/s") is grpc.StatusCode.NOT_FOUND
        assert await status_over_grpc(f"unix:{tmp_path}/s", "m" * 64) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_taken_port_closes_what_was_open() -> None:
    """The error names the flag; gRPC, which was open already, is closed again."""
    port, rest_port = free_ports()
    flags = Flags(port=port, rest_api_port=rest_port, bind_address="127.0.0.1")
    async with AsyncExitStack() as stack:
        await opened(stack, flags)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{rest_port}/v1/models/m") as reply,
        ):
            assert reply.status == 404
        with pytest.raises(OSError, match=r"--port: cannot listen on 127\.0\.0\.1"):
            async with AsyncExitStack() as second:
                await opened(second, flags)
        other, _ = free_ports()
        with pytest.raises(OSError, match="--rest_api_port: "):
            async with AsyncExitStack() as second:
                await opened(second, Flags(port=other, rest_api_port=rest_port, bind_address="127.0.0.1"))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{other}") as channel:
            request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "m"})
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
