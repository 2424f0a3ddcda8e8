"""A p99 means the same in every benchmark."""

import pytest

from tests.benchmarks.figures import quantile


@pytest.mark.parametrize(
    ("count", "share", "found"),
    [(100, 0.99, 99), (100, 0.5, 50), (101, 0.99, 100), (99, 0.99, 99), (1, 0.99, 1), (2, 0.5, 1), (1000, 0.99, 990)],
)
def test_a_quantile_is_the_nearest_rank(count: int, share: float, found: int) -> None:
    assert quantile([float(value) for value in range(count, 0, -1)], share) == found
