"""Datatypes as numpy sees them. BYTES are object arrays of `bytes`; BF16 travels as its raw uint16 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cluster.signature import Datatype

Array = npt.NDArray[np.generic]

NUMPY: dict[Datatype, np.dtype[np.generic]] = {
    Datatype.BOOL: np.dtype(np.bool_),
    Datatype.UINT8: np.dtype(np.uint8),
    Datatype.UINT16: np.dtype(np.uint16),
    Datatype.UINT32: np.dtype(np.uint32),
    Datatype.UINT64: np.dtype(np.uint64),
    Datatype.INT8: np.dtype(np.int8),
    Datatype.INT16: np.dtype(np.int16),
    Datatype.INT32: np.dtype(np.int32),
    Datatype.INT64: np.dtype(np.int64),
    Datatype.FP16: np.dtype(np.float16),
    Datatype.FP32: np.dtype(np.float32),
    Datatype.FP64: np.dtype(np.float64),
    Datatype.BF16: np.dtype(np.uint16),
    Datatype.BYTES: np.dtype(np.object_),
}
