"""What the flags and a PlatformConfigMap mean for loading, and the loader itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from serving.tfserving.savedmodel_server.batch_queue import BatchingOptions
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.load_flags import LoadFlags
from serving.tfserving.savedmodel_server.loading import Loader, LoadOptions, options_of
from tests.unit.serving.tfserving.savedmodel_server.saved_models import save_affine, write_warmup


def threads(**flags: int) -> tuple[int, int]:
    """What the flags on threads mean: within an operation, and operations at once."""
    session = options_of(replace(LoadFlags(), **flags)).session
    return session.intra_op_parallelism_threads, session.inter_op_parallelism_threads


def test_the_three_flags_on_threads() -> None:
    """One sets both, the other two one each and win; all three contradict each other."""
    assert threads() == (0, 0)
    assert threads(tensorflow_session_parallelism=3) == (3, 3)
    assert threads(tensorflow_intra_op_parallelism=2) == (2, 0)
    assert threads(tensorflow_inter_op_parallelism=2, tensorflow_session_parallelism=3) == (0, 2)
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: Either configure server_options.tensorflow_session_par"):
        threads(tensorflow_session_parallelism=1, tensorflow_intra_op_parallelism=1, tensorflow_inter_op_parallelism=1)


def test_warm_up_and_tags() -> None:
    """On by default, once; off by its flag."""
    assert options_of(LoadFlags()).warmup_iterations == 1
    assert options_of(LoadFlags(num_request_iterations_for_warmup=3)).warmup_iterations == 3
    assert options_of(LoadFlags(num_request_iterations_for_warmup=3, enable_model_warmup=False)).warmup_iterations == 0
    assert options_of(LoadFlags(saved_model_tags="serve,gpu")).tags == ("serve", "gpu")


def test_batching_needs_its_flag(tmp_path: Path) -> None:
    """A file without it is a mistake; it without a file has the defaults."""
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 3 }")
    assert options_of(LoadFlags()).batching is None
    assert options_of(LoadFlags(enable_batching=True)).batching is not None
    options = options_of(LoadFlags(enable_batching=True, batching_parameters_file=str(file)))
    assert options.batching is not None
    assert options.batching.max_batch_size == 3
    with pytest.raises(ServingError, match="batching_parameters_file is set without setting server_options.enable_ba"):
        options_of(LoadFlags(batching_parameters_file=str(file)))


def platform(folder: Path, config: str, name: str = "tensorflow") -> LoadFlags:
    """Flags with a PlatformConfigMap of one entry, and batching, which it turns off."""
    file = folder / "platform.config"
    adapter = "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"
    file.write_text(
        f'platform_configs {{ key: "{name}" value {{ source_adapter_config {{ [{adapter}] {{ legacy_config {{ {config} '
        "} } } } }"
    )
    return LoadFlags(platform_config_file=str(file), enable_batching=True, tensorflow_session_parallelism=7)


def test_a_platform_file_replaces_the_flags(tmp_path: Path) -> None:
    """The session's options as they are, graph rewriters included; what it does not say is off."""
    options = options_of(platform(tmp_path, ""))
    assert options == LoadOptions(warmup_iterations=0)
    config = """
    session_config {
      intra_op_parallelism_threads: 2
      graph_options { rewrite_options { disable_meta_optimizer: true } optimizer_options { opt_level: L0 } }
    }
    batching_parameters { max_batch_size { value: 5 } }
    saved_model_tags: "serve" saved_model_tags: "tpu" prefer_tflite_model: true
    enable_model_warmup: true model_warmup_options { num_request_iterations { value: 2 } }
    """
    options = options_of(platform(tmp_path, config))
    assert options.session.intra_op_parallelism_threads == 2
    assert options.session.graph_options.rewrite_options.disable_meta_optimizer
    assert options.batching is not None
    assert options.batching.max_batch_size == 5
    assert (options.tags, options.prefer_tflite, options.warmup_iterations) == (("serve", "tpu"), True, 2)


@pytest.mark.parametrize(
    ("config", "name", "reason"),
    [
        ("", "other", "platform other is not supported by the stand-in; it serves tensorflow only"),
        ('session_target: "grpc://x"', "tensorflow", "session_target cannot be honoured by the stand-in"),
        (
            "model_warmup_options { num_model_warmup_threads { value: 2 } } enable_session_metadata: true",
            "tensorflow",
            "enable_session_metadata, num_model_warmup_threads cannot be honoured",
        ),
        ("nonsense: 1", "tensorflow", 'has no field named "nonsense"'),
        ("batching_parameters { num_batch_threads { value: -1 } }", "tensorflow", "num_batch_threads must be posit"),
    ],
)
def test_what_a_platform_file_cannot_say_is_refused_by_name(
    tmp_path: Path, config: str, name: str, reason: str
) -> None:
    """INVALID_ARGUMENT, before anything is loaded."""
    with pytest.raises(ServingError) as caught:
        options_of(platform(tmp_path, config, name))
    assert reason in str(caught.value)


def test_a_platform_file_needs_an_adapter_that_is_known(tmp_path: Path) -> None:
    """Another message, no message, no entry."""
    file = tmp_path / "platform.config"
    flags = LoadFlags(platform_config_file=str(file))
    for text, reason in {
        "": "has no entry for platform tensorflow",
        'platform_configs { key: "tensorflow" value {} }': "source_adapter_config is a nothing",
        'platform_configs { key: "tensorflow" value { source_adapter_config { type_url: "a/b.C" } } }': "is a b.C;",
    }.items():
        file.write_text(text)
        with pytest.raises(ServingError, match=reason):
            options_of(flags)


def test_the_loader_puts_requests_together(tmp_path: Path) -> None:
    """Also those of the warm-up: a request that is too large for a batch does not load."""
    save_affine(tmp_path / "m", 1)
    loader = Loader(LoadOptions(batching=BatchingOptions(max_batch_size=2, max_execution_size=2)))
    signature = loader(tmp_path / "m" / "1").signature("")
    assert signature is not None
    assert signature.run({"x": np.ones((2, 2), np.float32)}, ("y",))["y"].tolist() == [[3, 3], [3, 3]]
    with pytest.raises(ServingError, match="Task size 3 is larger than maximum input batch size 2"):
        signature.run({"x": np.ones((3, 2), np.float32)}, ("y",))
    loader.close()


def test_the_loader_warms_up_where_it_is_told_to(tmp_path: Path) -> None:
    """A request that fails fails the load."""
    save_affine(tmp_path / "m", 1)
    write_warmup(tmp_path / "m" / "1", b"\xff\xff")
    Loader(LoadOptions(warmup_iterations=0))(tmp_path / "m" / "1").close()
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: Failed to parse warmup record"):
        Loader(LoadOptions())(tmp_path / "m" / "1")


def test_a_model_says_on_which_device_it_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As TensorFlow has them."""
    caplog.set_level("INFO")
    save_affine(tmp_path / "m", 1)
    loader = Loader(LoadOptions())
    servable = loader(tmp_path / "m" / "1")
    expected = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    assert f"{tmp_path / 'm' / '1'} runs on {expected}" in caplog.text
    servable.close()
    loader.close()
