"""What Triton's and KServe's clients can ask beside an inference, and how they tell what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.clients.world import MODEL, STACKS, World, array

pytestmark = pytest.mark.clients

TRITON_ERROR = "tritonclient.utils.InferenceServerException"
TRITON = ("triton_http", "triton_grpc")
NOT_FOUND = {"triton_http": "[404]", "triton_grpc": "[StatusCode.NOT_FOUND]"}
INVALID = {"triton_http": "[400]", "triton_grpc": "[StatusCode.INVALID_ARGUMENT]"}
NO_METHOD = {"triton_http": "[404]", "triton_grpc": "[StatusCode.UNIMPLEMENTED]"}
UNKNOWN_MODEL = "unknown model 'nope'"
UNKNOWN_VERSION = "model 'digits' has no version 99; its versions: 1"
WRONG_SHAPE = "input 'image' has shape [1, 4]; expected [-1, 8, 8, 1]"


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("program", TRITON)
def test_triton_learns_of_server_and_models(world: World, program: str, stack: str) -> None:
    """Health, both kinds of metadata, and the repository index, whichever stack has the model."""
    told = world.tell(program, stack)["server"]
    assert [told[name] for name in ("live", "ready", "model_ready", "version_ready")] == [True] * 4, told
    assert told["server"]["name"] == "twinserve"
    assert "binary_tensor_data" in told["server"]["extensions"]
    for name in ("model", "version"):
        assert (told[name]["name"], told[name]["versions"]) == (MODEL, ["1"])
        (tensor,) = told[name]["inputs"]
        assert (tensor["name"], tensor["datatype"]) == ("image", "FP32")
        assert [int(size) for size in tensor["shape"]] == [-1, 8, 8, 1]
    index = told["index"]["models"] if program == "triton_grpc" else told["index"]
    (entry,) = [entry for entry in index if entry["name"] == MODEL]
    assert (entry["name"], entry["version"], entry["state"]) == (MODEL, "1", "READY")


@pytest.mark.parametrize("program", TRITON)
def test_an_unknown_model_is_not_ready(world: World, program: str) -> None:
    """Over HTTP the library takes any error for false; over gRPC it raises."""
    told = world.tell(program, "torchserve")["server"]["unknown_ready"]
    if program == "triton_http":
        assert told is False
    else:
        assert told == {"raised": TRITON_ERROR, "text": f"[StatusCode.NOT_FOUND] {UNKNOWN_MODEL}"}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("program", TRITON)
def test_triton_asks_for_a_version_an_output_and_an_id(world: World, program: str, stack: str) -> None:
    """All of them come back with the answer."""
    told = world.tell(program, stack)["response"]
    assert (told["model_name"], told["model_version"], told["id"]) == (MODEL, "1", "mine")
    assert [output["name"] for output in told["outputs"]] == ["probabilities"]


@pytest.mark.parametrize("stack", STACKS)
def test_triton_streams(world: World, stack: str) -> None:
    """One reply a request, in order, over one call; a bad request fails alone."""
    told = world.tell("triton_grpc", stack)["stream"]
    assert [reply.get("id") for reply in told] == ["1", None, "3", "4"]
    assert UNKNOWN_MODEL in told[1]["error"]
    for reply in (told[0], told[2], told[3]):
        world.agrees(reply["values"])


@pytest.mark.parametrize("program", TRITON)
def test_triton_tells_what_was_wrong(world: World, program: str) -> None:
    """The library's own exception, with the protocol's status and the gateway's text."""
    told = world.tell(program, "tfserving")["refusals"]
    assert {refusal["raised"] for refusal in told.values()} == {TRITON_ERROR}
    for name, status, text in (
        ("unknown_model", NOT_FOUND, UNKNOWN_MODEL),
        ("unknown_version", NOT_FOUND, UNKNOWN_VERSION),
        ("wrong_shape", INVALID, WRONG_SHAPE),
        ("wrong_datatype", INVALID, "input 'image' is INT64; expected FP32"),
        ("unknown_output", INVALID, "model 'digits' has no output 'nope'; its outputs are 'probabilities'"),
    ):
        assert told[name]["text"].startswith(f"{status[program]} {text}"), told[name]


def test_compressed_requests_are_refused_by_name(world: World) -> None:
    """The library can compress; the gateway says that it takes nothing compressed."""
    over_http = world.tell("triton_http", "torchserve")["refusals"]["compressed"]["text"]
    assert over_http == "[415] Content-Encoding: expected none; bodies are taken uncompressed only"
    over_grpc = world.tell("triton_grpc", "torchserve")["refusals"]["compressed"]["text"]
    assert over_grpc == "[StatusCode.UNIMPLEMENTED] Compression algorithm 'gzip' is disabled."


@pytest.mark.parametrize("program", TRITON)
def test_tritons_own_extensions_are_refused_by_name(world: World, program: str) -> None:
    """Configuration, statistics, tracing, logging, shared memory, loading: a clear answer, and nothing breaks."""
    told = world.tell(program, "torchserve")["beyond"]
    assert {refusal["raised"] for refusal in told.values()} == {TRITON_ERROR}
    for name, refusal in told.items():
        assert refusal["text"].startswith(NO_METHOD[program]), (name, refusal)
    for name in ("load", "unload"):
        assert "the gateway does not load or unload models" in told[name]["text"]


@pytest.mark.parametrize("stack", STACKS)
def test_kserve_asks_for_an_output_and_an_id(world: World, stack: str) -> None:
    """They come back with the answer; the REST client drops the version that was told."""
    told = world.tell("kserve", stack)
    for name, version in (("rest_response", None), ("grpc_response", "1")):
        identity, model, stated, values = told[name]
        assert (identity, model, stated) == ("mine", MODEL, version)
        world.agrees(values)


@pytest.mark.parametrize("stack", STACKS)
def test_kserve_learns_of_health(world: World, stack: str) -> None:
    """Of the server, a model, and a model that is not there."""
    told = world.tell("kserve", stack)
    over_rest, over_grpc = told["rest_server"], told["grpc_server"]
    assert over_rest == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "unknown_ready": False,
        "live_by_v1": True,
    }
    assert over_grpc.pop("unknown_ready")["text"] == f"NOT_FOUND: {UNKNOWN_MODEL}"
    assert over_grpc == {"live": True, "ready": True, "model_ready": True}


def test_kserve_tells_what_was_wrong(world: World) -> None:
    """Its REST client repeats the gateway's text; its gRPC client has it as the details."""
    told = world.tell("kserve", "torchserve")
    expected: dict[str, dict[str, str]] = {
        "rest_refusals": {
            "unknown_model": f"{UNKNOWN_MODEL}, '404 Not Found' for url",
            "wrong_shape": WRONG_SHAPE,
            "wrong_shape_json": WRONG_SHAPE,
        },
        "grpc_refusals": {
            "unknown_model": f"NOT_FOUND: {UNKNOWN_MODEL}",
            "unknown_version": f"NOT_FOUND: {UNKNOWN_VERSION}",
            "wrong_shape": f"INVALID_ARGUMENT: {WRONG_SHAPE}",
        },
    }
    raised = {"rest_refusals": "httpx.HTTPStatusError", "grpc_refusals": "grpc.aio._call.AioRpcError"}
    for check, texts in expected.items():
        found: dict[str, Any] = told[check]
        for name, text in texts.items():
            assert found[name]["raised"] == raised[check]
            assert found[name]["text"].startswith(text), found[name]


@pytest.mark.parametrize("program", TRITON)
def test_concurrent_requests_do_not_mix(world: World, program: str) -> None:
    """Four at once give four equal answers."""
    told = world.tell(program, "tfserving")["concurrent"]
    first = array(told[0]).tolist()
    assert [array(each).tolist() for each in told] == [first] * 4
