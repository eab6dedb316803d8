"""How the signatures of a model are run: what is counted of it, and what their method names must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grpc import StatusCode

from serving.tfserving.savedmodel_server.classify import CLASSIFY, PREDICT, REGRESS
from serving.tfserving.savedmodel_server.errors import ServingError
from serving.tfserving.savedmodel_server.executor import Servable, Signature
from serving.tfserving.savedmodel_server.metrics import Metrics
from serving.tfserving.savedmodel_server.tensors import NDArray


@dataclass(frozen=True, slots=True)
class Runtime:
    """`check_method_names` is `--enable_signature_method_name_check`: TensorFlow 2 names every method `predict`."""

    metrics: Metrics = field(default_factory=Metrics)
    check_method_names: bool = False

    def check_method_name(self, servable: Servable, signature: Signature) -> None:
        """Raises INTERNAL where names are checked and this signature's is none that can be predicted with."""
        if not self.check_method_names:
            return
        given = servable.signature_defs[signature.name].method_name
        if given not in (PREDICT, CLASSIFY, REGRESS):
            raise ServingError(
                StatusCode.INTERNAL,
                f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. "
                f"Was: {given}",
            )

    def run(
        self,
        model: str,
        api: str,
        signature: Signature,
        arrays: Mapping[str, NDArray],
        wanted: Sequence[str],
        deadline: float | None,
    ) -> dict[str, NDArray]:
        """The wanted outputs of a signature, as Signature.run gives them, timed as one call of `api` (`Predict`)."""
        with self.metrics.running(model, api):
            return signature.run(arrays, wanted, deadline)
