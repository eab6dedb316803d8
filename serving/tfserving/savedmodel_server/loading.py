"""How a version's folder becomes a servable: the options, by flags or by a PlatformConfigMap, and the loader."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import config_pb2

from serving.tfserving.savedmodel_server import session_bundle_config
from serving.tfserving.savedmodel_server.batch_queue import BatchingOptions
from serving.tfserving.savedmodel_server.batching import BatchScheduler
from serving.tfserving.savedmodel_server.config import PLATFORM
from serving.tfserving.savedmodel_server.errors import invalid
from serving.tfserving.savedmodel_server.executor import SERVE, SavedModel, Servable
from serving.tfserving.savedmodel_server.load_flags import LoadFlags
from serving.tfserving.savedmodel_server.metrics import Metrics
from serving.tfserving.savedmodel_server.tflite import FILE as TFLITE_FILE
from serving.tfserving.savedmodel_server.tflite import TFLiteModel
from serving.tfserving.savedmodel_server.warmup import warm_up

log = logging.getLogger(__name__)

# Of a SessionBundleConfig, what the stand-in cannot do.
REFUSED = (
    "session_target",
    "session_run_load_threadpool_index",
    "experimental_transient_ram_bytes_during_load",
    "experimental_fixed_input_tensors",
    "enable_session_metadata",
)


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What every version is loaded with; `warmup_iterations` of 0 is no warm-up, `batching` of None no batching."""

    tags: Sequence[str] = (SERVE,)
    session: config_pb2.ConfigProto = field(default_factory=config_pb2.ConfigProto)
    batching: BatchingOptions | None = None
    prefer_tflite: bool = False
    warmup_iterations: int = 1


def options_of(flags: LoadFlags) -> LoadOptions:
    """The options that the flags mean; raises ServingError naming what contradicts, and the file that is wrong.

    A --platform_config_file replaces all of them.
    """
    if flags.platform_config_file:
        return _of_platform_file(Path(flags.platform_config_file))
    return LoadOptions(
        tags=tuple(flags.saved_model_tags.split(",")),
        session=_session(flags),
        batching=_batching(flags),
        prefer_tflite=flags.prefer_tflite_model,
        warmup_iterations=max(flags.num_request_iterations_for_warmup, 1) if flags.enable_model_warmup else 0,
    )


class Loader:
    """Loads versions, several at once where it is called so. Raises ServingError where one cannot be loaded."""

    def __init__(self, options: LoadOptions, metrics: Metrics | None = None) -> None:
        self._options = options
        self._metrics = metrics or Metrics()
        self._scheduler = BatchScheduler(options.batching, self._metrics) if options.batching else None

    def __call__(self, folder: Path) -> Servable:
        """The servable of a folder, warmed up."""
        options = self._options
        servable: Servable
        wrap = self._scheduler.wrap if self._scheduler else None
        if options.prefer_tflite and (folder / TFLITE_FILE).exists():
            servable = TFLiteModel(folder, wrap=wrap)
        else:
            servable = SavedModel(folder, tags=options.tags, config=options.session, wrap=wrap)
            log.info("%s runs on %s", folder, servable.device)
        if options.warmup_iterations:
            try:
                warm_up(folder, servable, options.warmup_iterations, self._metrics)
            except BaseException:
                servable.close()
                raise
        return servable

    def hurry(self) -> None:
        """From now on no call waits for others to be put together with."""
        if self._scheduler:
            self._scheduler.hurry()

    def close(self, *, wait: bool = True) -> None:
        """Ends the threads of the batches, and may wait for that; no version may be called any more."""
        if self._scheduler:
            self._scheduler.close(wait=wait)


def _session(flags: LoadFlags) -> config_pb2.ConfigProto:
    both = flags.tensorflow_session_parallelism
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if both and intra and inter:
        raise invalid(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    if not intra and not inter:
        intra = inter = both
    config = config_pb2.ConfigProto(intra_op_parallelism_threads=intra, inter_op_parallelism_threads=inter)
    config.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    return config


def _batching(flags: LoadFlags) -> BatchingOptions | None:
    if flags.enable_batching and flags.batching_parameters_file:
        return session_bundle_config.batching_options(Path(flags.batching_parameters_file))
    if flags.enable_batching:
        return session_bundle_config.default_options()
    if flags.batching_parameters_file:
        raise invalid(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    return None


def _of_platform_file(path: Path) -> LoadOptions:
    """The options of a PlatformConfigMap's entry for TensorFlow; raises ServingError naming what cannot be done."""
    entries = session_bundle_config.read(path, "PlatformConfigMap").platform_configs
    for platform in entries:
        if platform != PLATFORM:
            raise invalid(f"'{path}': platform {platform} is not supported by the stand-in; it serves {PLATFORM} only")
    if PLATFORM not in entries:
        raise invalid(f"'{path}': PlatformConfigMap has no entry for platform {PLATFORM}")
    adapter = entries[PLATFORM].source_adapter_config
    config = session_bundle_config.unpacked(adapter, "SavedModelBundleSourceAdapterConfig").legacy_config
    given = {descriptor.name for descriptor, _ in config.ListFields()}
    refused = [name for name in REFUSED if name in given]
    if config.model_warmup_options.HasField("num_model_warmup_threads"):
        refused.append("num_model_warmup_threads")
    if refused:
        raise invalid(f"'{path}': {', '.join(refused)} cannot be honoured by the stand-in; leave it out")
    return LoadOptions(
        tags=tuple(config.saved_model_tags) or (SERVE,),
        session=config_pb2.ConfigProto.FromString(config.session_config.SerializeToString()),
        batching=session_bundle_config.options_of(config.batching_parameters)
        if "batching_parameters" in given
        else None,
        prefer_tflite=config.prefer_tflite_model,
        warmup_iterations=_iterations(config),
    )


def _iterations(config: Any) -> int:  # noqa: ANN401 - a message without a type
    if not config.enable_model_warmup:
        return 0
    wanted = config.model_warmup_options
    return wanted.num_request_iterations.value if wanted.HasField("num_request_iterations") else 1
