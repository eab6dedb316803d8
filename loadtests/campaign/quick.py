"""The campaign of `twinserve bench quick`: one model, both stacks, REST and gRPC, direct and through the gateway."""

from __future__ import annotations

# Each cell of a round gets some 600 requests: enough for a p99 (459), and light for two cores.
RATE = 120
ROUNDS = 6


def quick_campaign(model: str = "simplenn", *, rounds: int = ROUNDS, rate: float = RATE, seed: int = 7) -> str:
    """The campaign as YAML, so that the run's folder holds what anybody can run again or change."""
    return f"""\
# Made by `twinserve bench quick`: a first look. Its figures have intervals; no verdict is given.
name: quick
tier: quick
seed: {seed}
rounds: {rounds}
models: [{model}]
targets: [all]
scenarios:
  - {{name: steady, kind: server, arrivals: poisson, rate: {rate:g}, duration_s: 5, warm_up_s: 3}}
"""
