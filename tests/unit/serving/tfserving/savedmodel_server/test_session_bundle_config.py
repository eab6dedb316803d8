"""BatchingParameters in text: what they mean, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.tfserving.savedmodel_server.batch_queue import BatchingOptions
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.session_bundle_config import batching_options, default_options


def parsed(folder: Path, text: str) -> BatchingOptions:
    """The options of a file with this text."""
    file = folder / "batching.config"
    file.write_text(text)
    return batching_options(file)


def test_what_is_not_stated_is_the_librarys_default(tmp_path: Path) -> None:
    """As many threads as processors, batches of 1000, no wait, ten in the queue."""
    options = parsed(tmp_path, "")
    assert options.threads >= 1
    assert options == BatchingOptions(
        max_batch_size=1000, timeout_s=0, max_enqueued_batches=10, threads=options.threads, max_execution_size=1000
    )
    assert default_options().thread_pool_name == "model_server_batch_threads"


def test_everything_can_be_stated(tmp_path: Path) -> None:
    """Wrapped and plain fields."""
    text = """
    max_batch_size { value: 128 } batch_timeout_micros { value: 2500 } max_enqueued_batches { value: 7 }
    num_batch_threads { value: 3 } thread_pool_name { value: "mine" } pad_variable_length_inputs: true
    allowed_batch_sizes: 8 allowed_batch_sizes: 32
    enable_large_batch_splitting { value: true } max_execution_batch_size { value: 32 }
    """
    assert parsed(tmp_path, text) == BatchingOptions(
        max_batch_size=128,
        timeout_s=0.0025,
        max_enqueued_batches=7,
        threads=3,
        thread_pool_name="mine",
        allowed_sizes=(8, 32),
        pad_inputs=True,
        splitting=True,
        max_execution_size=32,
    )


def test_a_batch_is_as_large_as_a_request_unless_these_are_cut(tmp_path: Path) -> None:
    """An execution size without cutting says nothing; a queue of none is a queue of one."""
    options = parsed(tmp_path, "max_batch_size { value: 64 } max_execution_batch_size { value: 8 }")
    assert options.max_execution_size == 64
    assert parsed(tmp_path, "max_enqueued_batches { value: 0 }").max_enqueued_batches == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense: 1", 'has no field named "nonsense"'),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("max_batch_size { value: 0 }", "input_batch_size_limit must be positive; was 0"),
        ("batch_timeout_micros { value: -5 }", "batch_timeout_micros must be non-negative; was -5"),
        (
            "max_batch_size { value: 64 } allowed_batch_sizes: 32",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 32; expected 64",
        ),
        (
            "max_batch_size { value: 64 } allowed_batch_sizes: 64 enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 32 }",
            "Last entry in allowed_batch_sizes must match max_execution_batch_size; last entry was 64; expected 32",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: 4 allowed_batch_sizes: 4",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        (
            "max_batch_size { value: 4 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 8 }",
            "input_batch_size_limit must be greater than or equal to max_execution_batch_size",
        ),
        ("enable_large_batch_splitting { value: true } max_enqueued_batches { value: 0 }", "must be positive; was 0"),
        (
            "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 0 }",
            "max_execution_batch_size must be positive; was 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """INVALID_ARGUMENT, in TensorFlow Serving's words where it has some."""
    with pytest.raises(ServingError) as caught:
        parsed(tmp_path, text)
    assert str(caught.value).startswith("INVALID_ARGUMENT: ")
    assert reason in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """NOT_FOUND with its path."""
    with pytest.raises(ServingError, match=r"NOT_FOUND: .*/nothing: No such file or directory"):
        batching_options(tmp_path / "nothing")
