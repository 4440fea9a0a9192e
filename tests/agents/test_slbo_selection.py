"""Which training tasks SLBO skips."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarl_agents.slbo.selection import estimated_rating, performed


def test_a_task_is_skipped_if_its_rating_is_below_the_median_of_the_ten_before():
    assert performed(range(1, 12))
    assert not performed([*range(1, 11), 5])
    assert performed([*range(1, 11), 5.5])
    # Only the last ten count.
    assert performed([100.0] * 5 + list(range(1, 11)) + [6])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=10))
def test_no_task_is_skipped_before_there_are_ten_others(ratings):
    assert performed(ratings)


@given(st.lists(st.floats(-1e6, 1e6), min_size=11, max_size=30))
def test_the_best_rating_of_its_window_is_never_skipped(ratings):
    assert performed([*ratings, max(ratings[-10:])])


def test_the_estimated_rating_is_the_mean_fall_after_a_fit():
    # Falls: 5 - 3, 6 - 4, 7 - 7.
    assert estimated_rating([0, 3, 4, 7], [5, 6, 7, 9]) == pytest.approx(4 / 3)
    assert estimated_rating([0, 3, 4, 7], [5, 6, 7, 9], iterations=2) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 2 inner iterations"):
        estimated_rating([1.0], [2.0])
