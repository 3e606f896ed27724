"""Builds metrics in the form that the library exposes; every name begins with `webhookd_`."""

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from webhookd.observe.measures import Histogram


def counter(name: str, about: str, value: float) -> Metric:
    """Return a counter."""
    return CounterMetricFamily(f"webhookd_{name}", about, value=value)


def gauge(name: str, about: str, value: float) -> Metric:
    """Return a gauge."""
    return GaugeMetricFamily(f"webhookd_{name}", about, value=value)


def counters(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a counter for each value of a label."""
    return _labeled(CounterMetricFamily(f"webhookd_{name}", about, labels=(label,)), values)


def gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge for each value of a label."""
    return _labeled(GaugeMetricFamily(f"webhookd_{name}", about, labels=(label,)), values)


def histogram(name: str, about: str, counted: Histogram) -> Metric:
    """Return a histogram."""
    family = HistogramMetricFamily(f"webhookd_{name}", about)
    buckets: list[tuple[str, float]] = []
    upto = 0
    for bound, count in zip((*counted.bounds, float("inf")), counted.counts, strict=True):
        upto += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), upto))
    family.add_metric((), buckets, counted.total)
    return family


def _labeled(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for value, number in values.items():
        family.add_metric((value,), number)
    return family
