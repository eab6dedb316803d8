"""A configuration as the supervisor hands it to a worker, whole: no file is read a second time."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from gateway.core.contract import ModelContract
from gateway.plan import Configuration
from gateway.settings import Settings
from gateway.workers.share import share_of


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is to serve. Its ports are those that the supervisor holds, whatever the configuration says.

    `edition` counts the configurations of this supervisor: a worker that starts during a reload learns that its own is
    an old one.
    """

    edition: int
    configuration: Configuration
    rest_port: int
    grpc_port: int

    def to_json(self) -> bytes:
        """As it travels."""
        return orjson.dumps(
            {
                "edition": self.edition,
                # Only what was given: some defaults depend on it.
                "settings": self.configuration.settings.model_dump(mode="json", exclude_unset=True),
                "contracts": {name: contract.to_json() for name, contract in self.configuration.contracts.items()},
                "rest_port": self.rest_port,
                "grpc_port": self.grpc_port,
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> Assignment:
        """Reads what `to_json` wrote."""
        document = orjson.loads(text)
        settings = Settings(**document["settings"])
        contracts = {name: ModelContract.from_json(contract) for name, contract in document["contracts"].items()}
        return cls(
            document["edition"], Configuration(settings, contracts), document["rest_port"], document["grpc_port"]
        )

    def of_worker(self, worker: int) -> Configuration:
        """The configuration of one worker, with its part of what is divided."""
        settings = share_of(self.configuration.settings, worker)
        ports = {"rest_port": self.rest_port, "grpc_port": self.grpc_port}
        server = settings.server.model_copy(update=ports)
        return Configuration(settings.model_copy(update={"server": server}), self.configuration.contracts)
