"""Interleaved rounds: in each round, all subjects of a comparison run once.

Machines change their speed from minute to minute. Each ratio is therefore computed from two runs of the
same round; the report has the median of the ratios and their range.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from bench.load import Load, Run
from bench.material import Workload


class Measured(Protocol):
    """A process whose CPU time can be read."""

    def cpu_seconds(self) -> float:
        """User and system time until now."""


@dataclass(frozen=True)
class Subject:
    """One thing that is measured: a server under a workload.

    Attributes:
        connections: If different from the number of the others.
        rate: Requests a second; 0: as many as are answered.
    """

    name: str
    url: str
    process: Measured
    workload: Workload
    connections: int | None = None
    rate: float = 0


@dataclass(frozen=True)
class Sample:
    """One run. ``cpu`` is in µs of the server's for each request."""

    run: Run
    cpu: float
    units: int

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.run.rate * self.units


@dataclass(frozen=True)
class Spread:
    """A median, and the least and greatest value."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(statistics.median(values), min(values), max(values))


class Results:
    """All samples, by subject."""

    def __init__(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        self._samples = samples

    def __contains__(self, name: str) -> bool:
        return name in self._samples

    @property
    def names(self) -> list[str]:
        return list(self._samples)

    def rate(self, name: str) -> Spread:
        return Spread.of([sample.rate for sample in self._samples[name]])

    def p50(self, name: str) -> Spread:
        return Spread.of([sample.run.p50 for sample in self._samples[name]])

    def p99(self, name: str) -> Spread:
        return Spread.of([sample.run.p99 for sample in self._samples[name]])

    def failed(self, name: str) -> int:
        return sum(sample.run.failed for sample in self._samples[name])

    def cpu(self, name: str) -> Spread:
        return Spread.of([sample.cpu for sample in self._samples[name]])

    def ratio(self, name: str, base: str) -> Spread:
        """Of the rates, round by round."""
        pairs = zip(self._samples[name], self._samples[base], strict=True)
        return Spread.of([sample.rate / against.rate for sample, against in pairs])

    def cpu_ratio(self, name: str, base: str) -> Spread:
        """Of the CPU for each request, round by round."""
        pairs = zip(self._samples[name], self._samples[base], strict=True)
        return Spread.of([sample.cpu / against.cpu for sample, against in pairs])

    def p99_ratio(self, name: str, base: str) -> Spread:
        pairs = zip(self._samples[name], self._samples[base], strict=True)
        return Spread.of([sample.run.p99 / against.run.p99 for sample, against in pairs])


def measure(
    subjects: Sequence[Subject], load: Load, *, rounds: int, seconds: float, connections: int
) -> Results:
    """Measure all subjects, after a warm-up of two seconds for each."""
    samples: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    for subject in subjects:
        opened = subject.connections or connections
        if subject.workload.prepare:
            subject.workload.prepare()
        load.run(subject.url, subject.workload, connections=opened, seconds=2, rate=subject.rate)
    for number in range(1, rounds + 1):
        for subject in subjects:
            if subject.workload.prepare:
                subject.workload.prepare()
            before = subject.process.cpu_seconds()
            opened = subject.connections or connections
            run = load.run(
                subject.url, subject.workload, connections=opened, seconds=seconds, rate=subject.rate
            )
            cpu = (subject.process.cpu_seconds() - before) * 1e6 / run.requests
            samples[subject.name].append(Sample(run, cpu, subject.workload.units))
            print(
                f"round {number:2} of {rounds}  {subject.name:<20} {run.rate:9,.0f} requests/s"
                f"  p50 {run.p50 / 1000:6.2f} ms  p99 {run.p99 / 1000:6.2f} ms  {cpu:7.1f} µs CPU"
                f"{f'  {run.failed} FAILED' if run.failed else ''}",
                flush=True,
            )
    return Results(samples)
