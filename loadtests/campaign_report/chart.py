"""What every chart has: a picture, a summary in words, a legend and the figures as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from markupsafe import Markup

from loadtests.analysis.samples import Values, shows
from loadtests.analysis.series import Line, Series
from loadtests.analysis.statistics import Interval, bootstrap_mean, histogram_percentile
from loadtests.campaign_report.data import BINS, CENTRES_MS, CampaignData
from loadtests.campaign_report.svg import swatch


@dataclass(frozen=True, slots=True)
class Chart:
    """`legend` pairs a sample with a name. Names are plain text here; the template escapes them."""

    title: str
    summary: str
    svg: Markup
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[Markup, str], ...] = ()
    small: tuple[tuple[str, Markup], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Style:
    """How a target is drawn, everywhere on the page alike."""

    colour: int
    dash: str

    @property
    def sample(self) -> Markup:
        """For a legend."""
        return swatch(self.colour, self.dash)


def styles_of(series: Iterable[Series]) -> dict[str, Style]:
    """A colour for each target in the order of the plan, counted apart through the gateway, which is dashed."""
    found: dict[str, Style] = {}
    for own in series:
        if own.target not in found:
            dash = "dash" if own.first["path"] == "gateway" else ""
            found[own.target] = Style(sum(style.dash == dash for style in found.values()), dash)
    return found


def legend_of(group: Sequence[Series], styles: dict[str, Style]) -> tuple[tuple[Markup, str], ...]:
    """One entry a target."""
    return tuple((styles[own.target].sample, own.target) for own in group)


def figure(series: Series, metric: str) -> Interval | None:
    """The geometric mean over valid rounds with its 95 % interval; None where no round has the figure.

    Where no round is valid it is of all of them: something to look at, marked as INVALID wherever it stands.
    Its ratio between two targets is exactly that which their comparison gives.
    """
    values = [series.value(number, metric) for number in series.shown_rounds()]
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return None
    if (known <= 0).any():
        return bootstrap_mean(known)
    mean = bootstrap_mean(np.log(known))
    return Interval(*(float(np.exp(end)) for end in (mean.value, mean.low, mean.high)))


def shown_lines(series: Series) -> list[Line]:
    """The lines that the figures are of: the valid rounds, of a search the try at the rate that was found.

    Shares, counts and parts are of the same, so that what stands side by side speaks of the same requests.
    """
    return [line for number in series.shown_rounds() if (line := series.at_best(number)) is not None]


def pooled(data: CampaignData, series: Series, which: Literal["response", "service", "lag"] = "response") -> Values:
    """A histogram over the rounds that are shown: of right answers, of the lag of all that was sent."""
    total = np.zeros(BINS)
    for line in shown_lines(series):
        own = data.histograms.get((int(line["round"]), str(line["cell"])))
        if own is not None:
            total += getattr(own, which)
    return total


def at(counts: Values, share: float) -> float | None:
    """A percentile of a histogram in ms, to half a per cent; None where there are too few samples."""
    if not shows(int(counts.sum()), share):
        return None
    return float(CENTRES_MS[histogram_percentile(counts, share)])
