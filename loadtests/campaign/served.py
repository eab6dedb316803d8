"""Whether servers that run already serve the variants that a campaign is about: they were started without it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping, Sequence

from loadtests.addresses import server_of
from loadtests.campaign.asking import host_and_port
from loadtests.campaign.fleet import Fleet
from loadtests.errors import LoadTestError

_ASK_S = 3.0
# An address and a path; the JSON of its 200, None for anything else.
Get = Callable[[str, str], object]


def get_json(address: str, path: str) -> object:
    """What a server answers to GET; None where it does not answer 200 and JSON."""
    host, port = host_and_port(address)
    connection = http.client.HTTPConnection(host, port, timeout=_ASK_S)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return json.loads(reply.read()) if reply.status == http.client.OK else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def refuse_unserved(
    fleet: Fleet, models: Mapping[str, Mapping[str, str]], beside: Sequence[str], get: Get = get_json
) -> None:
    """Raises LoadTestError, naming them, where servers do not know some of the variants `beside` their stacks' own.

    `models` are the campaign's, each with its variants and their stacks, as far as those are needed.
    """
    asked = [
        (f"{model}-{variant}", variants[variant], variant)
        for model, variants in models.items()
        for variant in beside
        if variant in variants
    ]
    missing = [name for name, stack, variant in asked if get(*_described(fleet, stack, variant, name)) is None]
    if missing:
        raise LoadTestError(
            f"the servers that run do not serve {', '.join(missing)}: `twinserve down` first, and the campaign starts "
            f"servers that do, or `twinserve up --variants {','.join(beside)}`; nothing was measured"
        )


def _described(fleet: Fleet, stack: str, variant: str, name: str) -> tuple[str, str]:
    """Where a stack tells about a model."""
    if stack == "torchserve":
        return fleet.management or fleet.addresses.torchserve_rest, f"/models/{name}"
    return fleet.addresses.of(server_of(stack, variant), "rest"), f"/v1/models/{name}"
