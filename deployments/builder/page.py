"""The report as one HTML page that needs nothing else: a table, and a plot of size against speed against quality."""

from __future__ import annotations

import html
import math

from deployments.builder.explain_page import explain_part
from deployments.builder.report import Report, Variant

WIDTH, HEIGHT, MARGIN = 640, 360, 56
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c2733}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #dde3ea}
th:first-child,td:first-child,td:last-child{text-align:left}tr.chosen{background:#e8f6ec;font-weight:600}tr.broken{color:#a33}
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#44525f}.meta{color:#5a6875}
"""


def page(report: Report) -> str:
    """The whole page. All text from outside is escaped."""
    rows = "".join(_row(one, one.name == report.chosen) for one in report.variants)
    source = ", ".join(f"{html.escape(str(key))} {html.escape(str(value))}" for key, value in report.source.items())
    verdict = f"chosen: {report.chosen}" if report.chosen else "nothing passed the gate"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(report.model)}: build report</title>"
        f"<style>{STYLE}</style><h1>{html.escape(report.model)}</h1>"
        f"<p>{html.escape(verdict)}. Parity with the source: {report.parity:.2g}. "
        f"{report.data['rows']} rows, {report.took_s:.0f} s. {html.escape(profile_words(report))}</p>"
        f"<p class=meta>{source}</p>{_plot(report)}"
        "<table><tr><th>variant<th>size<th>speed at 1 / 64 / 1024<th>rows/s at 64<th>p99 at 1<th>memory<th>accuracy"
        "<th>cross-entropy"
        f"<th>MSE<th>agreement<th>largest difference<th></tr>{rows}</table>{explain_part(report.explain)}</html>"
    )


def profile_words(report: Report) -> str:
    """What became of the profile, in words; empty for reports of earlier releases."""
    return f"Profile: {report.data['profile']}." if "profile" in report.data else ""


def _row(one: Variant, chosen: bool) -> str:
    name = html.escape(one.name)
    if one.skipped or one.quality is None:
        return f"<tr class=broken><td>{name}<td colspan=10><td>skipped: {html.escape(one.skipped)}</tr>"
    quality = one.quality
    numbers = (quality.accuracy, quality.cross_entropy, quality.mse, quality.agreement, quality.max_difference)
    cells = [
        f"{one.size_bytes / 1000:.0f} kB",
        " / ".join(f"{one.speed[batch].speedup:.2f}" if batch in one.speed else "-" for batch in ("1", "64", "1024")),
        f"{one.speed['64'].rows_per_s:,.0f}" if "64" in one.speed else "-",
        f"{one.speed['1'].p99_ms:.3f} ms" if "1" in one.speed else "-",
        f"{(one.peak_bytes or 0) / 1e6:.0f} MB",
        *("-" if number is None else f"{number:.4g}" for number in numbers),
        html.escape("; ".join(("chosen",) * chosen + one.broken + unmeasured(one))),
    ]
    kind = "chosen" if chosen else "broken" if one.broken else ""
    return f'<tr class="{kind}"><td>{name}' + "".join(f"<td>{cell}" for cell in cells) + "</tr>"


def unmeasured(one: Variant) -> tuple[str, ...]:
    """Why it has no speed at a batch size, in words."""
    return tuple(f"batch {batch} is not measured: {why}" for batch, why in one.unmeasured.items())


def _plot(report: Report) -> str:
    """Speed across, quality up, a disc as large as the file; green where chosen, red where the gate is broken."""
    points = [(one, one.speedup, _merit(one)) for one in report.variants if one.quality and not one.skipped]
    if not points:
        return ""
    across = _scale([speed for _, speed, _ in points], MARGIN, WIDTH - MARGIN)
    upward = _scale([merit for _, _, merit in points], HEIGHT - MARGIN, MARGIN)
    largest = max(one.size_bytes for one, _, _ in points)
    discs = []
    for one, speed, merit in points:
        colour = "#2a9d5c" if one.name == report.chosen else "#c0392b" if one.broken else "#3b76b5"
        x, y, radius = across(speed), upward(merit), 4 + 18 * math.sqrt(one.size_bytes / largest)
        title = f"{one.name}: {speed:.2f} times as fast, {merit:.4g}, {one.size_bytes / 1000:.0f} kB"
        discs.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity=".45" stroke="{colour}">'
            f'<title>{html.escape(title)}</title></circle><text x="{x:.1f}" y="{y - radius - 3:.1f}" text-anchor="middle">'
            f"{html.escape(one.name)}</text>"
        )
    label = (
        "accuracy" if points[0][0].quality and points[0][0].quality.accuracy is not None else "quality (agreement, or minus MSE)"
    )
    axes = (
        f'<path d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN / 2}H{WIDTH - MARGIN / 2}" fill="none" stroke="#9aa7b3"/>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">times as fast as the imported model (mean)</text>'
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">{label}</text>'
    )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="size, speed and quality">{axes}{"".join(discs)}</svg>'


def _merit(one: Variant) -> float:
    quality = one.quality
    if quality is None:
        return 0.0
    if quality.accuracy is not None:
        return quality.accuracy
    return -quality.mse if quality.mse is not None else quality.agreement


class _scale:  # noqa: N801  used as a function
    """Maps values to pixels, with some air on both sides."""

    def __init__(self, values: list[float], low: float, high: float) -> None:
        span = (max(values) - min(values)) or 1.0
        self._start, self._span = min(values) - 0.12 * span, 1.24 * span
        self._low, self._high = low, high

    def __call__(self, value: float) -> float:
        return self._low + (value - self._start) / self._span * (self._high - self._low)
