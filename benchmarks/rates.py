"""Speeds that benchmarks print: a median with its range, and the machine on which it was measured."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

REPEATS = 5


class Rate(NamedTuple):
    """An amount a second: the median of several rounds, the slowest and the fastest.

    >>> rate = Rate.of(100, seconds=[0.1, 0.05, 0.2])
    >>> f"{rate:,.0f}", f"{rate / 1000:.1f}"
    ('1,000 (500-2,000)', '1.0 (0.5-2.0)')
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, amount: float, seconds: Sequence[float]) -> "Rate":
        rates = [amount / each for each in seconds]
        return cls(statistics.median(rates), min(rates), max(rates))

    def __truediv__(self, unit: float) -> "Rate":
        return Rate(*(value / unit for value in self))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def measure(work: Callable[[], object], amount: float, repeats: int = REPEATS) -> Rate:
    """How much of `amount` is done a second; the first round, which warms up caches and compiles, is left out."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return Rate.of(amount, seconds)


def peak_mib() -> float:
    """Peak memory of this process in MiB; ``ru_maxrss`` would start at that of the parent process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def circumstances() -> str:
    """Date, processor, cores, and how busy the machine was in the last minute."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")), "unknown processor")
    cores, (load, _, _) = len(os.sched_getaffinity(0)), os.getloadavg()
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cores} cores ({model}), load {load:.1f} at the start"
