"""The arithmetic of the measurement of nodes."""

from tests.bench.nodes import Grown, growth_figures
from tests.bench.report import Target


def test_several_nodes_are_compared_with_as_many_times_a_single_one() -> None:
    """The ratio is to the mean of all runs of one node, and the target is for several nodes alone."""
    grown = [Grown(1, 90.0, 0.5), Grown(2, 150.0, 1.0), Grown(4, 400.0, 2.0), Grown(1, 110.0, 0.7)]
    one, two, four = growth_figures(8, grown, Target(bound=0.8, at_least=True, is_ratio=True))
    assert (one.values, one.ratios, one.is_met) == ((90.0, 110.0), (), None)
    assert one.what == "1 node, 8 in flight each, 0.6 cores busy"
    assert (two.values, two.ratios, two.is_met) == ((150.0,), (0.75,), False)
    assert (four.ratios, four.is_met) == ((1.0,), True)
