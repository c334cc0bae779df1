"""Keeps a library from taking real-time priority for the whole process.

Where it may, which is as root on Linux and hence in most containers, SVT-AV1 gives the thread that opens it
and all threads that it starts the policy SCHED_FIFO at priority 99.  They, and every thread that the caller
starts afterwards, would then starve whatever else runs on the machine; niceness has no effect on them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")


def _policies() -> dict[int, tuple[int, int]]:
    """Policy and priority of this process's threads; empty where the system does not tell."""
    found: dict[int, tuple[int, int]] = {}
    if not hasattr(os, "sched_getscheduler"):
        return found
    with suppress(OSError):
        for thread in [int(entry.name) for entry in _TASKS.iterdir()]:
            # It may have ended since.
            with suppress(OSError):
                found[thread] = os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
    return found


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Give threads back the priority they had before, and ordinary priority to those started meanwhile."""
    before = _policies()
    try:
        yield
    finally:
        for thread, (policy, priority) in _policies().items():
            wanted, level = before.get(thread, (os.SCHED_OTHER, 0))
            if (policy, priority) != (wanted, level) and policy in (os.SCHED_FIFO, os.SCHED_RR):
                with suppress(OSError):
                    os.sched_setscheduler(thread, wanted, os.sched_param(level))
