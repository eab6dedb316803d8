"""How figures and names are written, in the report and in the terminal's table alike."""

from __future__ import annotations

NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_TRANSPORTS = {"rest": "REST", "grpc": "gRPC"}


def number(value: float | None, signed: bool = False) -> str:
    """A number with three significant digits; an en dash where there is none."""
    if value is None:
        return NONE
    digits = f"{value:.3g}"
    text = f"{float(digits):,.0f}" if abs(value) >= 100 else digits
    if not signed:
        return text
    return f"+{text}" if value > 0 else text.replace("-", _MINUS)


def transport_word(protocol: str | None) -> str:
    """A transport's name as people write it; an en dash for none."""
    return NONE if protocol is None else _TRANSPORTS.get(protocol, protocol)
