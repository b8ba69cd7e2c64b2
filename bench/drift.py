"""`python -m bench.drift [--quick] [--json]`: how often drift is alarmed without any, and how many rows it takes.

No rival: the reference is what is promised. One run of 1,000 ticks in ten may alarm, whatever rows have to do with each other;
rows to an alarm are compared with ln(c m) / KL, and with what was stated for digits that are shifted, blurred and inverted, and
for flights of later months than those that a version was built with (`make flights` fetches them).
"""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.drift_flights import DATA, flights_to_alarm
from bench.drift_rows import (
    CHANCE,
    Dependence,
    as_they_are,
    blurred,
    digits_to_alarm,
    false_alarms,
    inverted,
    rows_to_alarm,
    shifted,
)
from bench.figures import Figure, show

# Rows of digits within which drift is found.
STATED = {shifted: 600, blurred: 400, inverted: 300}
# Flights, by the month in which they come to a version of January and February.
STATED_FLIGHTS = {4: 500, 7: 500}
STEADY_ROWS = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs: two minutes")
    parser.add_argument("--json", action="store_true", help="one JSON line a figure")
    options = parser.parse_args()
    screen = Console(stderr=True)
    figures: list[Figure] = []
    for features, runs in ((1, 200), (10, 200), (784, 40)):
        for dependence in Dependence:
            screen.print(f"{features} features, {dependence} rows", highlight=False)
            share = false_alarms(features, dependence, runs // 10 if options.quick else runs)
            figures.append(
                Figure(f"drift.false_alarms.{features}.{dependence.replace(' ', '_')}", 100 * share, 100 * CHANCE, "%")
            )
    for features in (1, 10, 784):
        for shift in (0.5, 1.0):
            taken, known = rows_to_alarm(features, shift, 5 if options.quick else 25)
            figures.append(Figure(f"drift.rows_to_alarm.{features}.by_{shift:g}_std", taken, known, "rows"))
    for spoil, stated in STATED.items():
        rows = digits_to_alarm(spoil, 10 * stated)
        figures.append(Figure(f"drift.digits.{spoil.__name__}", rows or float("inf"), stated, "rows"))
    quiet = digits_to_alarm(as_they_are, STEADY_ROWS) is None
    screen.print(f"digits as they are: {'no' if quiet else 'an'} alarm in {STEADY_ROWS:,} rows", highlight=False)
    if DATA.exists():
        for month, stated in STATED_FLIGHTS.items():
            rows = flights_to_alarm(month, 10 * stated)
            figures.append(Figure(f"drift.flights.month_{month}", rows or float("inf"), stated, "rows"))
        quiet = flights_to_alarm(None, STEADY_ROWS) is None
        screen.print(f"flights of their own time: {'no' if quiet else 'an'} alarm in {STEADY_ROWS:,} rows", highlight=False)
    else:
        screen.print("flights are left out: `make flights` fetches them", highlight=False)
    show(figures, as_json=options.json)


if __name__ == "__main__":
    main()
