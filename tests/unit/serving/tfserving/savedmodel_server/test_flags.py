"""The command line: TensorFlow Serving's spelling, and refusals that name the flag."""

from __future__ import annotations

import pytest

from serving.tfserving.savedmodel_server.flags import Flags, parse

BASE = "--model_base_path=/m"


def test_defaults_are_tensorflow_servings() -> None:
    """gRPC on 8500, REST off, a look at the files every second."""
    assert parse([BASE]) == Flags(
        port=8500,
        rest_api_port=0,
        bind_address="0.0.0.0",
        model_name="default",
        model_base_path="/m",
        file_system_poll_wait_seconds=1,
        rest_api_timeout_in_ms=30_000,
    )


def test_both_spellings_of_a_value() -> None:
    """`--flag=value` and `--flag value`."""
    assert parse(["--port=1", "--rest_api_port", "2", "--model_config_file", "/c"]) == Flags(
        port=1, rest_api_port=2, model_config_file="/c"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--nonsense=1"], "unrecognized arguments: --nonsense=1"),
        (["--mixed_precision"], "--mixed_precision is a flag of TensorFlow Serving that savedmodel-server/"),
        (["--enable_profiler=true"], "--enable_profiler is a flag of TensorFlow Serving"),
        (["--enable_batching=True"], "argument --enable_batching: 'True' is neither true nor false"),
        (["--enable_batching", "false"], "unrecognized arguments: false"),
        (["--noenable_batching"], "unrecognized arguments: --noenable_batching"),
        (["--per_process_gpu_memory_fraction=2"], "'2' is no number from 0 to 1"),
        (["--xla_gpu_compilation_enabled"], "--xla_gpu_compilation_enabled is a flag of TensorFlow Serving"),
        (["--rest_api=1"], "unrecognized arguments: --rest_api=1"),
        (["--port=65536"], "argument --port: '65536' is no port"),
        (["--port=x"], "argument --port: 'x' is no port"),
        (["--file_system_poll_wait_seconds=-1"], "argument --file_system_poll_wait_seconds: '-1' is no natural number"),
        (["--port=0", "--rest_api_port=1"], "--port is 0 and there is no --grpc_socket_path"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line."""
    with pytest.raises(SystemExit) as caught:
        parse([BASE, *arguments])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1


def test_a_model_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Without any there would be nothing to serve."""
    with pytest.raises(SystemExit):
        parse([])
    assert "--model_base_path" in capsys.readouterr().err


def test_help_marks_what_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """The one flag that TensorFlow Serving lacks is marked as an extension."""
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    assert "(extension) address to listen on" in " ".join(capsys.readouterr().out.split())


def test_grpc_options_are_typed() -> None:
    """Whole numbers are numbers, as TensorFlow Serving reads them."""
    flags = Flags(grpc_channel_arguments="grpc.max_connection_age_ms=2000, a=b=c,")
    assert flags.grpc_options == (("grpc.max_connection_age_ms", 2000), ("a", "b=c"))
    assert Flags().grpc_options == ()


def test_booleans_are_tensorflows() -> None:
    """`--flag`, `--flag=true` and `--flag=false`; the next word is never a value."""
    for given in ("--enable_batching", "--enable_batching=true"):
        assert parse([BASE, given, "--port=1"]).enable_batching is True
    assert parse([BASE, "--enable_model_warmup=false"]).enable_model_warmup is False
    assert parse([BASE]).enable_model_warmup is True


def test_a_socket_is_enough() -> None:
    """Without a TCP port for gRPC."""
    assert parse([BASE, "--port=0", "--grpc_socket_path=/tmp/s"]).grpc_socket_path == "/tmp/s"


def test_a_flag_that_is_turned_off_asks_for_nothing() -> None:
    """Whatever the stand-in lacks may be off."""
    assert parse([BASE, "--enable_profiler=false", "--xla_cpu_compilation_enabled=false"]) == parse([BASE])


def test_the_doors_are_set_by_flags() -> None:
    """By TensorFlow Serving's names and defaults."""
    flags = parse([BASE, "--rest_api_enable_cors_support", "--rest_api_num_threads=3", "--monitoring_config_file=/m"])
    assert (flags.rest_api_enable_cors_support, flags.rest_api_num_threads) == (True, 3)
    assert (flags.monitoring_config_file, flags.grpc_max_threads) == ("/m", 0)
    assert not flags.enable_signature_method_name_check
