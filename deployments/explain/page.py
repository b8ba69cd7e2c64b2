"""An explanation as one HTML page that needs nothing else: bars, and a picture where the row is an image."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from deployments.engines.datatypes import Array
from deployments.explain.features import image_axes
from deployments.explain.form import ExplainScale, Explanation, Floats
from deployments.explain.strongest import FeaturePart, feature_count, strongest_first

BARS, WIDTH, LINE, NAMES = 30, 760, 22, 260
# Larger images are shown by squares.
MOST_CELLS = 64
CELL = 6
FOR, AGAINST = "#c8553d", "#3b76b5"
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c2733}
svg{max-width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#44525f}.rough{background:#fdf0d5;padding:.6rem 1rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dt{color:#5a6875}dd{margin:0}
figure{display:inline-block;margin:0 1rem 1rem 0}
"""


def explanation_page(title: str, one: Explanation, row: Mapping[str, Array], picture: tuple[int, int] | None = None) -> str:
    """The whole page. `row` holds each input in a row's shape; `picture` is height and width of an image that lies flat in one.

    All text from outside is escaped.
    """
    rough = f"<p class=rough>Not to be relied on: {html.escape(one.why)}.</p>" if one.too_rough else ""
    bars = _bars(strongest_first(one, row, BARS), feature_count(one))
    pictures = "".join(_picture(name, one, row[name], picture) for name in one.attributions)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{rough}{_facts(one)}{pictures}{bars}</html>"
    )


def target_words(one: Explanation) -> str:
    """What is explained: the log-odds of a class, or an output's number."""
    of = f"{one.output}" if one.label is None else f"{one.output} for class {one.label}"
    return f"log-odds of {of}" if one.scale is ExplainScale.LOG_ODDS else of


def baseline_words(one: Explanation) -> str:
    """What the baseline is the answer to."""
    return "the answer to the changed row" if one.changed else f"the mean over {one.background_rows} rows"


def changes(one: Explanation, most: int) -> str:
    """What a counterfactual changes, as `duration = 24, purpose = car`; a group by its name."""
    parts = strongest_first(one, one.counterfactual) if one.counterfactual else []
    values = {part.feature: "" if part.value is None else f" = {value_words(part.value)}" for part in parts}
    more = f" and {len(one.changed) - most:,} more" if len(one.changed) > most else ""
    return ", ".join(f"{name}{values.get(name, '')}" for name in one.changed[:most]) + more


def _facts(one: Explanation) -> str:
    facts = {
        "explained": target_words(one),
        "answer": f"{one.answer:.4g}",
        "baseline": f"{one.baseline:.4g}, {baseline_words(one)}",
        "method": f"{one.method}, {one.evaluations:,} evaluations",
        "completeness error": f"{one.completeness_error:.2g}",
    }
    if one.changed:
        facts["would be another class with"] = changes(one, 20)
    return "<dl>" + "".join(f"<dt>{key}<dd>{html.escape(value)}" for key, value in facts.items()) + "</dl>"


def _bars(parts: Sequence[FeaturePart], count: int) -> str:
    shown = [part for part in parts if part.worth or part.error]
    far = max((abs(part.worth) + part.error for part in shown), default=0.0)
    if not far:
        return "<p>No feature has a part in it.</p>"
    scale, middle = (WIDTH - NAMES - 80) / 2 / far, NAMES + (WIDTH - NAMES - 80) / 2
    lines = "".join(_bar(place, part, scale, middle) for place, part in enumerate(shown))
    left = count - len(shown)
    more = f"<p>{left:,} weaker features are not shown.</p>" if left else ""
    return (
        f'<svg viewBox="0 0 {WIDTH} {LINE * len(shown) + 4}" width="{WIDTH}" role="img" aria-label="what each feature is worth">'
        f'<path d="M{middle} 0V{LINE * len(shown)}" stroke="#9aa7b3"/>{lines}</svg>{more}'
    )


def _bar(place: int, part: FeaturePart, scale: float, middle: float) -> str:
    at, end = LINE * place + LINE / 2, middle + part.worth * scale
    name = part.feature if part.value is None else f"{part.feature} = {value_words(part.value)}"
    name = name if len(name) <= 40 else name[:39] + "…"
    return (
        f'<text x="{NAMES - 8}" y="{at + 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect x="{min(middle, end):.1f}" y="{at - 7:.1f}" width="{max(0.5, abs(end - middle)):.1f}" height="14"'
        f' fill="{FOR if part.worth > 0 else AGAINST}"/>'
        f'<path d="M{end - part.error * scale:.1f} {at:.1f}H{end + part.error * scale:.1f}" stroke="#1c2733"/>'
        f'<text x="{WIDTH - 4}" y="{at + 4:.1f}" text-anchor="end">{part.worth:+.3g}</text>'
    )


def value_words(value: object) -> str:
    """What a row holds, as a person reads it; of text what a terminal would obey is left out."""
    if isinstance(value, bytes):
        return "".join(letter for letter in value.decode(errors="replace") if letter.isprintable())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _picture(name: str, one: Explanation, value: Array, picture: tuple[int, int] | None) -> str:
    """The image, what each place of it is worth, and both; nothing where the input is no image."""
    worth, shape = one.attributions[name], one.attributions[name].shape
    if len(shape) == 1 and picture and picture[0] * picture[1] == shape[0]:
        worth, value = worth.reshape(picture), value.reshape(picture)
    axes = image_axes(worth.shape) or ((0, 1) if picture == worth.shape else None)
    if axes is None or value.dtype == np.object_:
        return ""
    channels = tuple(axis for axis in range(worth.ndim) if axis not in axes)
    side = max(1, -(-max(worth.shape[axis] for axis in axes) // MOST_CELLS))
    parts = _pooled(worth.sum(axis=channels), side)
    grey = _pooled(value.astype(np.float64).mean(axis=channels), side) / side**2
    far = float(np.abs(parts).max()) or 1.0
    span = float(np.ptp(grey)) or 1.0
    light = 255 - np.nan_to_num((grey - grey.min()) / span) * 215
    height, width = parts.shape
    plain, laid = [], []
    for (y, x), part in np.ndenumerate(parts):
        square = f'<rect x="{x * CELL}" y="{y * CELL}" width="{CELL}" height="{CELL}"'
        plain.append(f'{square} fill="rgb({",".join([str(int(light[y, x]))] * 3)})"/>')
        if part:
            laid.append(f'{square} fill="{FOR if part > 0 else AGAINST}" fill-opacity="{abs(part) / far:.2f}"/>')
    size = f'viewBox="0 0 {width * CELL} {height * CELL}" width="{max(224, width * CELL)}"'
    box = f'<svg {size} shape-rendering="crispEdges" role="img"'
    said = html.escape(name)
    return "".join(
        f'<figure>{box} aria-label="{said}{what}">{"".join(cells)}</svg><figcaption>{said}{what}</figcaption></figure>'
        for what, cells in (("", plain), (": for (red) and against (blue)", laid), (", both", [*plain, *laid]))
    )


def _pooled(values: Floats, side: int) -> Floats:
    """Sums over squares of so many places a side."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], side), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, values.shape[1], side), axis=1))
