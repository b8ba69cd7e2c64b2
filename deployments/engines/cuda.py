"""What CUDA's driver tells of this process's GPU, without torch."""

from __future__ import annotations

import ctypes


def memory_bytes() -> int | None:
    """The memory of the first GPU that this process sees; None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, total = ctypes.c_int(), ctypes.c_size_t()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceTotalMem_v2(ctypes.byref(total), device):
        return None
    return total.value
