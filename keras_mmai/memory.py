"""Memory that a step frees and the next one takes again, on CPUs: kept, instead of handed back to the system."""

import ctypes
import os
import sys

# TensorFlow's usual CPU allocator hands memory back to the system after every step and faults it in again in the next,
# which takes a large part of a small step; this one of its allocators keeps it. It is read at TensorFlow's first op.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")


def keep_freed_memory():
    """Makes glibc reuse freed memory instead of returning it to the system, which makes steps on CPUs faster.

    For the whole process, and best called first: the memory that it once took stays with it. No effect outside Linux
    with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        arena_max, mmap_threshold, trim_threshold, top_pad = -8, -3, -1, -2  # malloc.h
        for option, value in ((arena_max, 1), (mmap_threshold, 2**30), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            mallopt(option, value)
