"""Where and how computing happens: device, threads, and the switches that make it repeatable."""

import os

# Read by MKL when it starts: left to itself it changes its number of threads with the load, and sums with that.
os.environ.setdefault("MKL_DYNAMIC", "FALSE")
# The profiler (d3po_core/memory.py) else writes lines of its own to stderr.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from d3po_core.errors import ModelError

__all__ = [
    "keep_freed_memory",
    "make_deterministic",
    "peak_megabytes",
    "pick_device",
    "return_freed_memory",
    "torch_dtype",
    "use_threads",
]


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
"""glibc's numbers for mallopt (malloc.h)."""


def torch_dtype(name: str) -> torch.dtype:
    """``float32``, ``float16`` or ``bfloat16`` as torch's."""
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def pick_device(name: str) -> torch.device:
    """``auto`` is this process's CUDA device (LOCAL_RANK under torchrun) where there is one, else the CPU.

    Raises:
        ModelError: where CUDA is asked for and there is none.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"model.device is {name!r}, but torch finds no CUDA device here. Use `auto` or `cpu`.")
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu" if name == "auto" else name)


def use_threads(count: int | None) -> None:
    """Fix torch's threads in the *calling* thread (OpenMP's count is per thread): results depend on it.

    To be called where the computing starts; None leaves the count as it is.
    """
    if count is not None:
        if count < 1:
            raise ValueError(f"threads is {count}, expected at least 1.")
        torch.set_num_threads(count)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next allocation, as far as it is glibc.

    By default it hands large blocks back to the system at once, and each training step asks for them again, page by
    page: a tenth of a step's time (benchmarks/README.md).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    # An arena for every thread: what reading and storing keep would else lie between the blocks of the computing, which
    # then find no hole that is large enough (docs/decisions/0014). Glibc's own limit is 8 a core.
    options = ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 16 << 20), (M_ARENA_MAX, 64))
    for option, size in options:
        mallopt(option, size)


def return_freed_memory() -> None:
    """Give what is kept back to the system, as far as it is glibc's: another process is about to need it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_megabytes(device: torch.device) -> float:
    """The most memory that this process has had, in 10^6 bytes: allocated on its GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with suppress(OSError, ValueError):  # Linux: getrusage counts in the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(kilobytes) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def make_deterministic() -> None:
    """No TF32, no autotuned or non-deterministic kernels where torch has others."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN finds bugs in torch's callers; it costs time on every allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
