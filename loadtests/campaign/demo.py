"""The campaign of `twinserve demo`: a closed loop of a few seconds on every way to each stack."""

from __future__ import annotations

import json
from collections.abc import Sequence

# A gateway target stands right after the direct one that it is compared with; last what the gateway does by itself.
_TARGETS = """\
  - {stack: STACK, transport: rest}
  - {stack: STACK, transport: rest, path: gateway}
  - {stack: STACK, transport: grpc}
  - {stack: STACK, transport: grpc, path: gateway}
  - {stack: STACK, path: gateway, pin: stack}
"""


def demo_campaign(models: Sequence[str], *, seconds: float, users: int, stacks: Sequence[str]) -> str:
    """The campaign as YAML; `users` clients each wait for their answer, for `seconds` in every cell."""
    targets = "".join(_TARGETS.replace("STACK", stack) for stack in stacks)
    return f"""\
# Made by `twinserve demo`: a first look in a closed loop, one round, no verdict.
name: demo
tier: demo
rounds: 1
models: {json.dumps(list(models))}
scenarios:
  - {{name: closed loop, kind: offline, concurrency: {users}, duration_s: {seconds:g}}}
targets:
{targets}"""
