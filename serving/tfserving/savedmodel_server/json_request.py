"""The body of a REST predict call: its signature's name, then its tensors in row or column form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.tfserving.savedmodel_server import json_values, rapidjson
from serving.tfserving.savedmodel_server.errors import ServingError, invalid
from serving.tfserving.savedmodel_server.json_values import echo, is_base64
from serving.tfserving.savedmodel_server.rapidjson import Json
from serving.tfserving.savedmodel_server.tensors import NDArray

INSTANCES = "instances"
INPUTS = "inputs"
SIGNATURE_NAME = "signature_name"


@dataclass(frozen=True, slots=True)
class JsonRequest:
    """A parsed body: a JSON object, and the signature that it names ("" where it names none)."""

    document: dict[str, Json]
    signature_name: str

    @property
    def row(self) -> bool:
        """Whether the answer goes in row form, as `predictions`."""
        return INSTANCES in self.document

    def tensors(self, dtypes: Mapping[str, int]) -> dict[str, NDArray]:
        """The input tensors, by the dtypes of the signature's inputs; raises as TensorFlow Serving refuses."""
        if not dtypes:
            raise invalid(f"Failed to get input map for signature: {self.signature_name or 'DEFAULT'}")
        if INSTANCES in self.document:
            if INPUTS in self.document:
                raise self._malformed(
                    "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
                )
            instances = self.document[INSTANCES]
            if not isinstance(instances, list):
                raise self._malformed("Expecting 'instances' to be an list/array")
            if not instances:
                raise self._malformed("No values in 'instances' array")
            return _from_rows(instances, dtypes)
        if INPUTS in self.document:
            return _from_columns(self.document[INPUTS], dtypes)
        raise invalid("Missing 'inputs' or 'instances' key")

    def _malformed(self, text: str) -> ServingError:
        return invalid(f"JSON Value: {echo(self.document)} {text}")


def parse(body: bytes) -> JsonRequest:
    """A body as far as it can be read without the model; raises INVALID_ARGUMENT."""
    document = rapidjson.parse(body)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {echo(document)} Is not object")
    name = document.get(SIGNATURE_NAME, "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {echo(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return JsonRequest(document, name)


def _from_columns(value: Json, dtypes: Mapping[str, int]) -> dict[str, NDArray]:
    if not isinstance(value, dict) or is_base64(value):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((name, dtype),) = dtypes.items()
        return {name: json_values.tensor(value, dtype)}
    arrays = {}
    for name, dtype in dtypes.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = json_values.tensor(value[name], dtype)
    return arrays


def _from_rows(instances: list[Json], dtypes: Mapping[str, int]) -> dict[str, NDArray]:
    if not isinstance(instances[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    return _uniform_rows(instances, dtypes) or _Rows(dtypes).tensors(instances)


def _uniform_rows(instances: list[Json], dtypes: Mapping[str, int]) -> dict[str, NDArray] | None:
    """Rows without anything odd, converted at once; None where a closer look is needed."""
    kinds = set(map(type, instances))
    if kinds == {dict} and not is_base64(instances[0]):
        if any(row.keys() != dtypes.keys() for row in instances):
            return None
        columns = {name: [row[name] for row in instances] for name in dtypes}
    elif dict in kinds:
        return None
    else:
        columns = {next(iter(dtypes)): instances}
    arrays = {}
    for name, column in columns.items():
        array = json_values.uniform(column, json_values.shape_of(column), dtypes[name])
        if array is None:
            return None
        arrays[name] = array
    return arrays


class _Rows:
    """Rows one by one, in TensorFlow Serving's order of checks."""

    def __init__(self, dtypes: Mapping[str, int]) -> None:
        self._dtypes = dtypes
        self._rows: dict[str, list[NDArray]] = {}

    def tensors(self, instances: list[Json]) -> dict[str, NDArray]:
        objects = _is_named(instances[0])
        for index, instance in enumerate(instances):
            if objects:
                self._add_named(index, instance)
            else:
                if _is_named(instance):
                    raise invalid(f"Expecting value/list but got object at item {index} of input list")
                self._add(index, "", next(iter(self._dtypes)), instance)
        return {name: np.stack(rows) for name, rows in self._rows.items()}

    def _add_named(self, index: int, instance: Json) -> None:
        if not _is_named(instance):
            raise invalid(f"Expecting object but got list at item {index} of input list")
        for name, value in instance.items():
            self._add(index, f" key: {name}", name, value)
        if instance.keys() != self._dtypes.keys():
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {echo(instance)} keys must be "
                f"equal to: {','.join(sorted(self._dtypes))}"
            )

    def _add(self, index: int, key: str, name: str, value: Json) -> None:
        try:
            if name not in self._dtypes:
                raise invalid(f"JSON object: does not have named input: {name}")
            row = json_values.tensor(value, self._dtypes[name])
            rows = self._rows.setdefault(name, [])
            if rows and rows[0].size != row.size:
                raise invalid(f"Expecting tensor size: {rows[0].size} but got: {row.size}")
            if rows and rows[0].shape != row.shape:
                raise invalid(f"Expecting shape {_shape(rows[0])} but got: {_shape(row)}")
            rows.append(row)
        except ServingError as exc:
            raise invalid(f"Failed to process element: {index}{key} of 'instances' list. Error: {exc}") from exc


def _is_named(value: Json) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _shape(array: NDArray) -> str:
    return f"[{','.join(map(str, array.shape))}]"
