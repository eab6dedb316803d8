"""The flags on loading and running models, as model_servers/main.cc names them and server.h defaults them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from serving.tfserving.savedmodel_server.flag_types import boolean, fraction, natural


@dataclass(frozen=True, slots=True)
class LoadFlags:
    """How models are found, loaded, warmed up and run; 0 threads is TensorFlow's own choice."""

    model_config_file_poll_wait_seconds: int = 0
    allow_version_labels_for_unavailable_models: bool = False
    saved_model_tags: str = "serve"
    prefer_tflite_model: bool = False
    platform_config_file: str = ""
    num_load_threads: int = 0
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0
    enable_batching: bool = False
    batching_parameters_file: str = ""
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    per_process_gpu_memory_fraction: float = 0
    flush_filesystem_caches: bool = True
    remove_unused_fields_from_bundle_metagraph: bool = True


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """Puts the flags into a parser, each under its own name."""
    group = parser.add_argument_group("loading and running models")

    def add(name: str, kind: object, text: str) -> None:
        default = getattr(_DEFAULTS, name)
        shown = f"default {str(default).lower()}" if default != "" else "default none"
        group.add_argument(f"--{name}", type=kind, default=default, help=f"{text} ({shown})")  # type: ignore[arg-type]

    add(
        "model_config_file_poll_wait_seconds", natural, "seconds between two looks at --model_config_file; 0 reads once"
    )
    add(
        "allow_version_labels_for_unavailable_models",
        boolean,
        "let a label that is not in use name a version that is not available, as at the start",
    )
    add("saved_model_tags", str, "tags of the graph to load, separated by commas")
    add("prefer_tflite_model", boolean, "load model.tflite where a version has one")
    add("platform_config_file", str, "text protobuf PlatformConfigMap; the flags that it holds are then ignored")
    add("num_load_threads", natural, "versions loaded at once after the start; 0 is one")
    add("num_unload_threads", natural, "versions unloaded at once; 0 is one")
    add("max_num_load_retries", natural, "further tries for a version that does not load")
    add("load_retry_interval_micros", natural, "microseconds between two tries")
    add("enable_model_warmup", boolean, "replay assets.extra/tf_serving_warmup_requests before a version is available")
    add("num_request_iterations_for_warmup", natural, "how often each request of the warm-up runs; 0 is once")
    add("enable_batching", boolean, "put requests together")
    add("batching_parameters_file", str, "text protobuf BatchingParameters, with --enable_batching")
    add("tensorflow_session_parallelism", natural, "threads within one operation, and operations at once; 0 is auto")
    add("tensorflow_intra_op_parallelism", natural, "threads within one operation; 0 is auto")
    add("tensorflow_inter_op_parallelism", natural, "operations at once; 0 is auto")
    add("per_process_gpu_memory_fraction", fraction, "share of a GPU's memory; 0 is auto")
    # Neither changes anything here: local folders have no such caches, and of a graph only its signatures are kept.
    add("flush_filesystem_caches", boolean, "no effect with local folders")
    add("remove_unused_fields_from_bundle_metagraph", boolean, "no effect: only the signatures are kept")


_DEFAULTS = LoadFlags()
