"""The metrics, read from the ledger whenever somebody asks: every process tells the same truth, a restart forgets none.

Nothing is counted here. What happened in the last 24 hours is a gauge, and no counter, because old runs are forgotten
one day; a counter that goes down would look like a restart.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from isthmus import __version__, logs
from isthmus.actions import observing
from isthmus.app import App
from isthmus.ledger.figures import AT_WORK, OVER, Figures, SyncFigures
from isthmus.model.work import ACTIVE, ConnectionState, SyncState

LOG = logs.log(__name__)

ROLES = ("serve", "worker", "command")
INCIDENTS = ("failure", "silence", "unable", "drift")

Samples = Iterable[tuple[tuple[str, ...], float]]


def registry(app: App) -> CollectorRegistry:
    """What `/metrics` shows of `app` and of this process."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_LedgerMetrics(app))
    ProcessCollector(registry=made)
    return made


class _LedgerMetrics(Collector):
    def __init__(self, app: App) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("isthmus_build", "What is running.", value=build)
        try:
            figures = observing.figures(self._app)
        except Exception as e:  # whatever it is: that it went wrong is the answer
            LOG.warning("metrics cannot be read", exc_info=e)
            yield _gauge("isthmus_up", _UP, (), [((), 0)])
            return
        yield _gauge("isthmus_up", _UP, (), [((), 1)])
        for name, (help, labels, samples) in METRICS.items():
            yield _gauge(name, help, labels, samples(figures))


def _gauge(name: str, help: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


_UP = "1 if the ledger answers; if it is 0, nothing else of ours is known."


def _freshness(figures: Figures) -> Samples:
    for sync in _enabled(figures):
        if sync.fresh_at is not None:
            yield (sync.name,), (figures.at - sync.fresh_at).total_seconds()


def _connection_state(figures: Figures) -> Samples:
    for connection in figures.connections:
        yield from (((connection.name, state), float(connection.state == state)) for state in ConnectionState)


def _check_age(figures: Figures) -> Samples:
    for connection in figures.connections:
        if connection.checked_at is not None and connection.state is not ConnectionState.DISABLED:
            yield (connection.name,), (figures.at - connection.checked_at).total_seconds()


def _sync_state(figures: Figures) -> Samples:
    for sync in figures.syncs:
        yield from (((sync.name, state), float(sync.state == state)) for state in SyncState)


def _runs(figures: Figures) -> Samples:
    for sync in _enabled(figures):
        yield from (((sync.name, state), float(sync.run == state)) for state in ACTIVE)


def _finished(figures: Figures) -> Samples:
    for sync in _enabled(figures):
        yield from (((sync.name, state), sync.finished.get(state, 0)) for state in OVER)


def _of_each(number: Callable[[SyncFigures], float]) -> Callable[[Figures], Samples]:
    return lambda figures: [((sync.name,), number(sync)) for sync in _enabled(figures)]


def _counted(words: Iterable[str], found: Callable[[Figures], Mapping[Any, int]]) -> Callable[[Figures], Samples]:
    """One sample for each word, and for any other that is found: a series that is there at 0 can be watched."""

    def samples(figures: Figures) -> Samples:
        numbers = {**dict.fromkeys(map(str, words), 0), **{str(k): n for k, n in found(figures).items()}}
        return [((word,), number) for word, number in numbers.items()]

    return samples


def _enabled(figures: Figures) -> list[SyncFigures]:
    """Without those whose connection was removed: nobody waits for them."""
    return [sync for sync in figures.syncs if sync.state is not SyncState.DISABLED]


METRICS: dict[str, tuple[str, tuple[str, ...], Callable[[Figures], Samples]]] = {
    "isthmus_sync_freshness_seconds": (
        "Age of the moment up to which the warehouse is complete. Not there before the first completed run.",
        ("sync",),
        _freshness,
    ),
    "isthmus_sync_state": ("1 for the state a sync is in, 0 for the others.", ("sync", "state"), _sync_state),
    "isthmus_sync_failures_in_a_row": (
        "Runs of a sync that failed since one was completed.",
        ("sync",),
        _of_each(lambda sync: sync.failures),
    ),
    "isthmus_runs": ("1 for the state of a sync's active run, 0 for the others.", ("sync", "state"), _runs),
    "isthmus_last_day_finished_runs": (
        "Runs that ended in the last 24 hours, by how they ended.",
        ("sync", "state"),
        _finished,
    ),
    "isthmus_last_day_delivered_rows": (
        "Rows delivered in the last 24 hours.",
        ("sync",),
        _of_each(lambda sync: sync.rows),
    ),
    "isthmus_last_day_delivered_bytes": (
        "Bytes of the files delivered in the last 24 hours.",
        ("sync",),
        _of_each(lambda sync: sync.size_bytes),
    ),
    "isthmus_connection_state": (
        "1 for the state a connection is in, 0 for the others.",
        ("connection", "state"),
        _connection_state,
    ),
    "isthmus_connection_check_age_seconds": (
        "Time since a connection's checks were last asked. Not there if they never were.",
        ("connection",),
        _check_age,
    ),
    "isthmus_lanes": (
        "Lanes of runs that wait for a worker (queued) or are carried out by one (going).",
        ("state",),
        _counted(AT_WORK, lambda figures: figures.lanes),
    ),
    "isthmus_workers": (
        "Workers that gave a sign of life in the last 30 seconds. Those of role command do one thing and leave.",
        ("role",),
        _counted(ROLES, lambda figures: figures.workers),
    ),
    "isthmus_incidents_open": (
        "Incidents that are open.",
        ("kind",),
        _counted(INCIDENTS, lambda figures: figures.incidents),
    ),
}
"""Every metric of ours beside `isthmus_up` and `isthmus_build_info`: what it says, its labels, where it is from."""
