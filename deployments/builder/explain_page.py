"""The part of the report's page on explanations: what moves the version's answers, and what each method is worth on it."""

from __future__ import annotations

import html

from deployments.builder.report import ExplainReport, FeatureImportance, MethodTrial

WIDTH, LINE, NAMES = 640, 20, 180


def explain_part(report: ExplainReport | None) -> str:
    """As HTML; empty where there is nothing to tell. All text from outside is escaped."""
    if report is None:
        return ""
    words = f"<h2>Explanations</h2><p>Rows to compare with: {html.escape(report.background)}.</p>"
    return words + _importance(report) + _methods(report.methods)


def _importance(report: ExplainReport) -> str:
    if not report.importance:
        return ""
    far = max(one.high for one in report.importance) or 1.0
    scale = (WIDTH - NAMES - 90) / far
    lines = "".join(_bar(place, one, scale) for place, one in enumerate(report.importance))
    height = LINE * len(report.importance) + 4
    unit = "log-odds of the answer" if report.scale == "log_odds" else "the output's own unit"
    shown, every = len(report.importance), report.features
    first = f"The first {shown} of {every:,} features" if every > shown else "Features"
    return (
        f"<p>{first} by the mean size of their part in {report.importance_rows} answers, in {unit}. Lines are 95 % intervals of"
        f' that mean.</p><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="what moves answers">{lines}</svg>'
    )


def _bar(place: int, one: FeatureImportance, scale: float) -> str:
    top, middle = LINE * place + 3, LINE * place + LINE / 2 + 1
    end = NAMES + one.mean * scale
    low, high = NAMES + one.low * scale, NAMES + one.high * scale
    name = html.escape(one.feature if len(one.feature) <= 28 else one.feature[:27] + "…")
    return (
        f'<text x="{NAMES - 6}" y="{middle + 4:.1f}" text-anchor="end">{name}</text>'
        f'<rect x="{NAMES}" y="{top}" width="{max(0.5, end - NAMES):.1f}" height="{LINE - 5}" fill="#3b76b5" fill-opacity=".55"/>'
        f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#1c2733"/>'
        f'<text x="{high + 6:.1f}" y="{middle + 4:.1f}">{one.mean:.3g}</text>'
    )


def _methods(methods: tuple[MethodTrial, ...]) -> str:
    if not methods:
        return ""
    lines = "".join(
        f"<tr><td>{html.escape(one.method)}<td>{'yes' if one.works else 'no'}<td>{_number(one.ms_a_row, ' ms')}"
        f"<td>{_number(one.evaluations, '')}<td>{_percent(one.completeness_error)}<td>{_number(one.agreement, '')}"
        f"<td>{html.escape(one.why)}</tr>"
        for one in methods
    )
    return (
        "<table><tr><th>method<th>works<th>a row<th>evaluations<th>completeness error<th>agrees with Shapley values<th></tr>"
        f"{lines}</table>"
    )


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:,.3g}{unit}" if value < 1000 else f"{value:,.0f}{unit}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
