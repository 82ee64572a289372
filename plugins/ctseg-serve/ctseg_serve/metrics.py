"""Counters in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """What the service has done since it started.

    Args:
        info: labels of the constant `ctseg_info`.

    Attributes:
        requests: responses of `/predict` by status; 499 for clients that left before.
        received_bytes: of scans.
    """

    def __init__(self, info: Mapping[str, str]) -> None:
        self._info = dict(info)
        self.requests: dict[int, int] = {}
        self.received_bytes = 0
        self._buckets = [0] * len(BUCKETS_S)
        self._seconds, self._predictions = 0.0, 0

    def responded(self, status: int) -> None:
        self.requests[status] = self.requests.get(status, 0) + 1

    def predicted(self, seconds: float) -> None:
        self._seconds += seconds
        self._predictions += 1
        for index, edge in enumerate(BUCKETS_S):
            self._buckets[index] += seconds <= edge

    def text(self, *, waiting: int, running: int) -> str:
        """All values.

        Args:
            waiting: requests that are admitted and not predicted at the moment.
            running: 1 during a prediction.
        """
        return "\n".join([*self._lines(waiting, running), ""])

    def _lines(self, waiting: int, running: int) -> Iterator[str]:
        yield from _head("ctseg_info", "gauge", "Version, model and device.")
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in self._info.items())
        yield f"ctseg_info{{{labels}}} 1"
        yield from _head("ctseg_requests_total", "counter", "Responses of /predict by status.")
        for status, count in sorted(self.requests.items()):
            yield f'ctseg_requests_total{{status="{status}"}} {count}'
        yield from _head("ctseg_received_bytes_total", "counter", "Bytes of scans received.")
        yield f"ctseg_received_bytes_total {self.received_bytes}"
        yield from _head("ctseg_waiting", "gauge", "Requests that are received, wait or are sent.")
        yield f"ctseg_waiting {waiting}"
        yield from _head("ctseg_running", "gauge", "Predictions that run.")
        yield f"ctseg_running {running}"
        name = "ctseg_prediction_seconds"
        yield from _head(name, "histogram", "Duration of finished predictions, without waiting.")
        for edge, count in zip(BUCKETS_S, self._buckets, strict=True):
            yield f'{name}_bucket{{le="{edge:g}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self._predictions}'
        yield f"{name}_sum {self._seconds:.6f}"
        yield f"{name}_count {self._predictions}"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
