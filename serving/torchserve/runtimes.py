"""What runs a model inside the TorchServe handler: TorchScript, torch eager, torch.compile, AOTInductor, ONNX Runtime.

Packed into every `.mar` beside handler.py; it imports only torch, numpy, the standard library,
instructions.py and, for an ONNX model, onnxruntime. `variant` of model-config.yaml chooses; without one the archive's
serialized file is a TorchScript graph:

variant:
  name: aotinductor         # what requests ask for
  runtime: aotinductor      # torchscript, eager, compile, aotinductor or onnx
  file: model.pt2           # the model
  source: source.zip        # eager, compile: the network's Python modules
  files: {model.pt2: sha256}  # the model, contract.json and all else that is read, checked before
  device: cpu               # cpu or cuda; without it a GPU where TorchServe assigns one
  warm_up: [1, 2]           # batch sizes that are run before the worker is ready
  must_warm_up: true        # a warm-up that fails is a model that does not load
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __package__:
    from serving.torchserve.instructions import Unloadable, check_cpu, cpu_flags, metadata
else:  # in an archive the files lie side by side
    from instructions import Unloadable, check_cpu, cpu_flags, metadata

Array = np.ndarray[Any, Any]
# A datatype of the Open Inference Protocol and the array, of the dtype in NUMPY.
Value = tuple[str, Array]
logger = logging.getLogger(__name__)

# numpy has no bfloat16, so that a BF16 array holds the bits. A BYTES array holds `bytes`.
NUMPY = {
    **{"BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "BF16": "<u2"},
    **{"INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8", "BYTES": "O"},
}
TORCH = {name: (getattr(torch, np.dtype(code).name),) for name, code in NUMPY.items() if code != "O"}
TORCH |= {"BF16": (torch.bfloat16,), "BYTES": (torch.uint8, torch.int64)}
# Of a network's pickle: its own modules from source.zip, and torch's; nothing else may be named in it.
TRUSTED = ("torch.nn.", "models.")


class TorchRuntime:
    """A model that takes and gives torch tensors; `kind` is for people."""

    def __init__(self, kind: str, model: Callable[..., Any], device: torch.device, outputs: Mapping[str, str]) -> None:
        self.kind, self.model, self.device, self.outputs = kind, model, device, outputs

    def run(self, inputs: Sequence[Value]) -> dict[str, Array | None]:
        """The contract's outputs by name; None for one that the model gave not, or in another datatype."""
        with torch.inference_mode():
            result = self.model(*[to_torch(*value, self.device) for value in inputs])
        results = (result,) if isinstance(result, torch.Tensor) else result  # a tuple is in the contract's order
        if not isinstance(results, dict):
            results = dict(zip(self.outputs, results, strict=True))
        return {name: from_torch(datatype, _parts(results.get(name))) for name, datatype in self.outputs.items()}

    def warmed_up(self) -> None:
        """Called once, when the warm-up is over."""


class CompiledRuntime(TorchRuntime):
    """A network behind torch.compile."""

    def warmed_up(self) -> None:
        """From here on a shape that was not compiled runs eagerly: no request waits for a compiler."""
        torch.compiler.set_stance("eager_on_recompile")


class OnnxRuntime:
    """A graph in ONNX Runtime; `session` is an InferenceSession whose inputs are in the contract's order."""

    def __init__(self, session: Any, outputs: Mapping[str, str], device: torch.device) -> None:  # noqa: ANN401
        self.session, self.outputs, self.device = session, outputs, device
        self.kind = f"ONNX Runtime, {session.get_providers()[0]}"
        self.names = [item.name for item in session.get_inputs()]

    def run(self, inputs: Sequence[Value]) -> dict[str, Array | None]:
        """As of a TorchRuntime."""
        arrays = [np.require(array, requirements=("C", "A")) for _, array in inputs]
        results = self.session.run(list(self.outputs), dict(zip(self.names, arrays, strict=True)))
        return {
            name: array if array.dtype == NUMPY[datatype] else None
            for (name, datatype), array in zip(self.outputs.items(), results, strict=True)
        }

    def warmed_up(self) -> None:
        """As of a TorchRuntime."""


Runtime = TorchRuntime | OnnxRuntime


def load(
    folder: Path, serialized: str, variant: Mapping[str, Any], outputs: Mapping[str, str], gpu: int | None
) -> Runtime:
    """The model in an archive's `folder`; raises Unloadable.

    `variant` is that of model-config.yaml; where it names no file the model is a TorchScript graph in `serialized`.
    `outputs` are the contract's datatypes by name, `gpu` is what TorchServe assigned. Its files were checked before.
    """
    kind, file = variant.get("runtime", "torchscript"), folder / variant.get("file", serialized)
    if kind not in LOADERS:
        raise Unloadable(f"model-config.yaml: variant.runtime is '{kind}'; expected one of {', '.join(LOADERS)}")
    return LOADERS[kind](file, variant, device_of(variant, gpu), outputs)


def text(folder: Path, options: Mapping[str, Any]) -> Callable[[Array], Sequence[Array]]:
    """What `preprocess` of model-config.yaml asks for: text in, the network's inputs out; see text.py."""
    module = importlib.import_module("serving.torchserve.text" if __package__ else "text")
    made: Callable[[Array], Sequence[Array]] = module.Text(folder, options)
    return made


def beyond(array: Array, least: float | None = None, most: float | None = None, largest: Sequence[int] = ()) -> str:
    """How an array passes the bounds that the contract sets for an input, in words; empty where it does not."""
    if any(size > top != -1 for size, top in zip(array.shape, largest, strict=False)):
        return f"has shape {list(array.shape)}; its largest is {list(largest)} (-1: any size)"
    if array.size and least is not None and array.min() < least:
        return f"holds {array.min()}; its least value is {least}"
    if array.size and most is not None and array.max() > most:
        return f"holds {array.max()}; its greatest value is {most}"
    return ""


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raises Unloadable where a file is missing, or is not the one that was verified."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise Unloadable(f"{name} is missing from the archive; `twinserve models build` makes it anew")
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            raise Unloadable(
                f"{name} is corrupt: its sha256 is {found[:16]}..., where model-config.yaml has {expected[:16]}...;"
                " `twinserve models build` makes it anew"
            )


def device_of(variant: Mapping[str, Any], gpu: int | None) -> torch.device:
    """Where the variant runs; raises Unloadable where it needs a GPU and has none."""
    wanted = variant.get("device")
    usable = gpu is not None and torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        seen = f"TorchServe assigned gpu_id {gpu}, torch.cuda.is_available() is {torch.cuda.is_available()}"
        raise Unloadable(f"variant {variant.get('name')} needs an NVIDIA GPU: {seen} (torch {torch.__version__})")
    return torch.device(f"cuda:{gpu}" if usable and wanted != "cpu" else "cpu")


def _torchscript(file: Path, _: object, device: torch.device, outputs: Mapping[str, str]) -> Runtime:
    return TorchRuntime("TorchScript", torch.jit.load(str(file), device).eval(), device, outputs)


def _eager(file: Path, variant: Mapping[str, Any], device: torch.device, outputs: Mapping[str, str]) -> Runtime:
    return TorchRuntime("torch eager", network(file, variant, device), device, outputs)


def _compile(file: Path, variant: Mapping[str, Any], device: torch.device, outputs: Mapping[str, str]) -> Runtime:
    net = network(file, variant, device)
    # Not dynamic=True: it leaves every size of an input open, and the kernels for that are slower than eager ones. By
    # itself it opens those that differ between the warm-up's batches.
    return CompiledRuntime("torch.compile", torch.compile(net), device, outputs)


def network(file: Path, variant: Mapping[str, Any], device: torch.device) -> Any:  # noqa: ANN401 - a torch module
    """The network pickled in `file`, in evaluation mode; its classes come from the archive's `source`.

    The pickle may name nothing but them and torch's modules.
    """
    sys.path.insert(0, str(file.parent / variant["source"]))
    named = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    foreign = [name for name in named if not name.startswith(TRUSTED)]
    if foreign:
        raise Unloadable(f"{file.name} names {foreign[0]}; expected modules of torch.nn and {variant['source']} alone")
    with torch.serialization.safe_globals([_found(name) for name in named]):
        return torch.load(str(file), map_location=device, weights_only=True).eval()


def _found(name: str) -> Any:  # noqa: ANN401 - a class or a function
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _aotinductor(file: Path, _: object, device: torch.device, outputs: Mapping[str, str]) -> Runtime:
    built = metadata(file)
    if built.get("AOTI_DEVICE_KEY", "cpu") != device.type:
        raise Unloadable(f"{file.name} was built for {built['AOTI_DEVICE_KEY']}, and this worker runs on {device}")
    if device.type == "cpu":
        check_cpu(file.name, built, platform.machine(), cpu_flags())
    # torch's own C++ loader: its Python wrapper imports the whole compiler, 1.4 s and 80 MB for each worker, and takes
    # half of a small model's time on every call.
    index = device.index if device.index is not None else -1
    loader = torch._C._aoti.AOTIModelPackageLoader(str(file), "model", False, 1, index)
    return TorchRuntime("AOTInductor", lambda *inputs: loader.boxed_run(list(inputs)), device, outputs)


def _onnx(file: Path, variant: Mapping[str, Any], device: torch.device, outputs: Mapping[str, str]) -> Runtime:
    try:
        import onnxruntime  # noqa: PLC0415 - only this variant needs it
    except ImportError as exc:
        raise Unloadable(f"{file.name} needs ONNX Runtime: {exc}; `pip install onnxruntime`") from exc
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    wanted = variant.get("provider") or ("CPU" if device.type == "cpu" else "CUDA")
    provider = f"{wanted}ExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise Unloadable(f"ONNX Runtime {onnxruntime.__version__} here has no {provider}; it has {have}")
    settings = {} if device.type == "cpu" else {"device_id": device.index or 0}
    session = onnxruntime.InferenceSession(str(file), options, providers=[(provider, settings)])
    if session.get_providers()[0] != provider:  # it falls back to the CPU without an error
        raise Unloadable(f"ONNX Runtime could not start its {provider}; its log says why")
    return OnnxRuntime(session, outputs, device)


LOADERS: dict[str, Callable[[Path, Mapping[str, Any], torch.device, Mapping[str, str]], Runtime]] = {
    "torchscript": _torchscript,
    "eager": _eager,
    "compile": _compile,
    "aotinductor": _aotinductor,
    "onnx": _onnx,
}


def set_up_torch(options: Mapping[str, int]) -> None:
    """Applies `torch` of model-config.yaml, and keeps float32 exact: no TF32, and no kernels chosen by timing."""
    torch.set_num_threads(options.get("intraOpThreads", 1))
    if torch.get_num_interop_threads() != options.get("interOpThreads", 1):
        torch.set_num_interop_threads(options.get("interOpThreads", 1))  # allowed once in a process
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def to_torch(datatype: str, array: Array, device: torch.device) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """A torch tensor, of BYTES a pair, over the same memory where that is aligned and writable, as torch needs it."""
    if datatype == "BYTES":
        items = array.reshape(-1).tolist()
        lengths = torch.tensor([len(item) for item in items], dtype=torch.int64).reshape(array.shape)
        return torch.from_numpy(np.frombuffer(bytearray(b"".join(items)), np.uint8)).to(device), lengths.to(device)
    own = np.require(array, requirements=("C", "A", "W"))
    if datatype == "BF16":
        return torch.from_numpy(own.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(own).to(device)


def _parts(value: torch.Tensor | tuple[torch.Tensor, ...] | None) -> tuple[torch.Tensor, ...]:
    return (value,) if isinstance(value, torch.Tensor) else value or ()


def from_torch(datatype: str, parts: tuple[torch.Tensor, ...]) -> Array | None:
    """The array that a tensor, or the pair of BYTES, is; None where they do not make one of `datatype`."""
    if tuple(part.dtype for part in parts) != TORCH[datatype]:
        return None
    value, *lengths = (part.cpu().contiguous() for part in parts)
    if not lengths:
        return (value.view(torch.int16) if datatype == "BF16" else value).numpy().view(NUMPY[datatype])
    data, ends = value.numpy().tobytes(), [0, *lengths[0].flatten().cumsum(0).tolist()]
    items = np.empty(lengths[0].shape, object)
    items.reshape(-1)[:] = [data[begin:end] for begin, end in pairwise(ends)]
    return items if ends == sorted(ends) and ends[-1] == len(data) else None
