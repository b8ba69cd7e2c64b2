"""What a version's calls cost by their rows, and whether what waits had better go as one call or as several."""

from __future__ import annotations

from dataclasses import dataclass

FADES = 0.95  # what a call weighs beside the next one
ALIKE = 0.001  # calls whose sizes vary less, as a share of the mean's square, do not tell what a row costs
UNKNOWN_SHARE = 0.5  # of a call, its rows' own: the half that is tried, which tells


@dataclass(eq=False, slots=True)
class CallCost:
    """A line through the last calls, seconds = fixed + rows * each: least squares, in which older calls fade."""

    weight: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    rows_rows: float = 0.0
    rows_seconds: float = 0.0

    def took(self, rows: int, seconds: float) -> None:
        """A call of so many rows took so long."""
        self.weight = FADES * self.weight + 1
        self.rows = FADES * self.rows + rows
        self.seconds = FADES * self.seconds + seconds
        self.rows_rows = FADES * self.rows_rows + rows * rows
        self.rows_seconds = FADES * self.rows_seconds + rows * seconds

    def line(self) -> tuple[float, float]:
        """Seconds of a call without rows, and of each row; neither is below 0. Nothing is free that was never called."""
        if not self.weight:
            return 0.0, 0.0
        rows, seconds = self.rows / self.weight, self.seconds / self.weight
        spread = self.rows_rows / self.weight - rows * rows
        if spread <= ALIKE * rows * rows:
            row_s = UNKNOWN_SHARE * seconds / rows
        else:
            row_s = (self.rows_seconds / self.weight - rows * seconds) / spread
        row_s = min(max(row_s, 0.0), seconds / rows)
        return seconds - row_s * rows, row_s

    def calls_worth(self, rows: int, least_s: float) -> int:
        """Into how many calls so many rows may be parted, so that the rows of each are at least `least_s` of work, and at least
        half of what a call costs without them. 0 where they are not worth even one."""
        fixed_s, row_s = self.line()
        return int(rows * row_s / max(least_s, fixed_s / 2, 1e-9))
