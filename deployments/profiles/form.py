"""What a profile says: for each tensor numbers in fixed bins, or categories with their counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from cluster.signature import Datatype
from deployments.profiles.numbers import Floats, NumberColumns

FORMAT = 1
# Below this many rows the outer edges are the extremes, and a share is known to some points only.
FEW_ROWS = 500


class TensorSide(StrEnum):
    """Whether a tensor goes into a version or comes out."""

    INPUT = "input"
    OUTPUT = "output"


class FeatureKind(StrEnum):
    """How a tensor's features are profiled."""

    NUMBERS = "numbers"
    CATEGORIES = "categories"


class ProfilePart(BaseModel):
    """Base of what profile.json holds. Fields that a later release adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CategoryCounts(ProfilePart):
    """The most frequent values of one feature, falling, and in how many rows each stood; `other` are all the other rows.

    `distinct` is how many different values there were; None where they were too many to count.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    other: int
    distinct: int | None


class TensorProfile(ProfilePart):
    """One input or output. `row_shape` is that of a row in the profile's rows; `features` how many values that makes.

    The first `profiled` of them were looked at. `categories` has one entry for each of these where `kind` says so.
    """

    side: TensorSide
    name: str
    datatype: Datatype
    row_shape: tuple[int, ...]
    features: int
    profiled: int
    kind: FeatureKind
    categories: tuple[CategoryCounts, ...] = ()

    @property
    def key(self) -> str:
        """What it is called among the profile's arrays."""
        return f"{self.side}.{self.name}"

    def feature_names(self) -> list[str]:
        """Each profiled feature by its place in the row: `image[3,5]`; the tensor's own name where a row is one value."""
        if self.features == 1:
            return [self.name][: self.profiled]
        places = np.transpose(np.unravel_index(np.arange(self.profiled), self.row_shape)).tolist() if self.profiled else []
        return [f"{self.name}[{','.join(map(str, place))}]" for place in places]


class ProfileSummary(ProfilePart):
    """profile.json: all but the arrays. `classes` counts the class of each row, where scores tell it; `left_out` are the tensors
    that the document did not want in it. `held_out` of its rows say what an outlier is; 0: nothing does."""

    format: int = FORMAT
    rows: int
    tensors: tuple[TensorProfile, ...]
    classes: CategoryCounts | None = None
    left_out: tuple[str, ...] = ()
    held_out: int = 0

    @property
    def few(self) -> bool:
        """Whether its rows are so few that its edges and shares are rough."""
        return self.rows < FEW_ROWS


@dataclass(frozen=True, slots=True)
class OutlierArrays:
    """What outliers are told by, of f numbers, g categories and c components.

    `lo`, `scale`, `mean`, `std` are [f]; `rarity` [f, 19] is -log p of each bin: below `lo`, 16 within, above, NaN. `components`
    are [c, f], and `reach` [c] how far rows spread along each. `names` [g] says how many of `named`, -log p of each category and
    then of all others, belong to each. `middle` and `spread` [3] are of the three scores. `calibration` are the scores of the
    rows held out, rising.
    """

    lo: Floats
    scale: Floats
    mean: Floats
    std: Floats
    rarity: Floats
    components: Floats
    reach: Floats
    names: npt.NDArray[np.int64]
    named: Floats
    middle: Floats
    spread: Floats
    calibration: Floats


OUTLIER_ARRAYS = tuple(field.name for field in fields(OutlierArrays))


@dataclass(frozen=True, slots=True)
class Profile:
    """The whole: what profile.json says, and by `TensorProfile.key` the numbers of each tensor that has some.

    `outliers` is what rows are called outliers by; None in a profile of few rows, or of an earlier release.
    """

    summary: ProfileSummary
    numbers: Mapping[str, NumberColumns]
    outliers: OutlierArrays | None = None
