"""When a file that has landed is complete, with a simulated clock."""

from hypothesis import given
from hypothesis import strategies as st

from nelbo.data import Stamp
from nelbo.flows.watching.arrivals import Arrivals

SETTLE_S = 0.5


def stamp(size: int = 10, when: int = 1, inode: int = 7) -> Stamp:
    return Stamp(size, when, when, inode)


def paths(arrivals: Arrivals, now_s: float, n: int = 9) -> list[str]:
    return [arrival.path for arrival in arrivals.due(now_s, n)]


def test_a_file_renamed_into_place_is_complete_at_once() -> None:
    arrivals = Arrivals(SETTLE_S)
    arrivals.see("a.png", stamp(), 3.0, moved=True)
    (arrival,) = arrivals.due(3.0, 9)
    assert (arrival.path, arrival.when_s) == ("a.png", 3.0)
    # The file no longer waits, but it is still listed.
    assert paths(arrivals, 9.0) == []
    assert "a.png" in arrivals


def test_a_file_renamed_over_a_waiting_one_is_complete_at_once() -> None:
    arrivals = Arrivals(SETTLE_S)
    arrivals.see("a.png", stamp(), 3.0)
    arrivals.see("a.png", stamp(), 3.1, moved=True, noticed=True)
    assert paths(arrivals, 3.1) == ["a.png"]
    assert arrivals.wait_s(3.1) == float("inf")


def test_other_files_wait_until_nothing_has_changed_for_a_while() -> None:
    arrivals = Arrivals(SETTLE_S)
    arrivals.see("a.png", stamp(size=1), 3.0)
    # The same stamp again is no change; another size or another time is one.
    arrivals.see("a.png", stamp(size=1), 3.4, noticed=True)
    assert arrivals.wait_s(3.4) == 3.5 - 3.4
    arrivals.see("a.png", stamp(size=2), 3.45)
    arrivals.see("a.png", stamp(size=2, when=2), 3.6)
    assert paths(arrivals, 4.0) == []
    assert paths(arrivals, 4.1) == ["a.png"]


def test_files_come_in_the_order_of_completion_and_no_more_than_requested() -> None:
    arrivals = Arrivals(SETTLE_S)
    for path, now_s in (("c.png", 1.0), ("b.png", 1.2), ("a.png", 1.1)):
        arrivals.see(path, stamp(), now_s)
    assert paths(arrivals, 9.0, n=2) == ["c.png", "a.png"]
    assert paths(arrivals, 9.0) == ["b.png"]


def test_a_file_is_taken_one_time_until_it_changes() -> None:
    arrivals = Arrivals(SETTLE_S)
    arrivals.take("a.png", stamp())
    arrivals.see("a.png", stamp(), 1.0)
    assert paths(arrivals, 9.0) == []
    # A new stamp is a change, though size and time are the same; so is a notice that the file was written to.
    arrivals.see("a.png", stamp(inode=8), 1.0)
    assert paths(arrivals, 9.0) == ["a.png"]
    arrivals.take("a.png", stamp(inode=8))
    arrivals.see("a.png", stamp(inode=8), 1.0, noticed=True)
    assert paths(arrivals, 9.0) == ["a.png"]


def test_a_deleted_file_does_not_wait_and_is_new_when_it_comes_back() -> None:
    arrivals = Arrivals(SETTLE_S)
    arrivals.see("a.png", stamp(), 1.0)
    arrivals.take("b.png", stamp())
    assert [path in arrivals for path in ("a.png", "b.png")] == [True, True]
    assert [arrivals.lose(path) for path in ("a.png", "b.png", "c.png")] == [True, False, False]
    assert [*arrivals] == []
    arrivals.see("b.png", stamp(), 2.0)
    assert paths(arrivals, 9.0) == ["b.png"]


looks = st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(0, 2)), min_size=1, max_size=30)


@given(looks)
def test_a_file_is_complete_exactly_when_it_has_settled(seen: list[tuple[float, int]]) -> None:
    """Compared with the definition: a file is complete if every look of the last half second saw the same stamp."""
    arrivals, now_s, changed_s, last = Arrivals(SETTLE_S), 0.0, 0.0, None
    for pause_s, size in seen:
        now_s += pause_s
        if size != last:
            changed_s, last = now_s, size
        arrivals.see("a.png", stamp(size), now_s)
        due = arrivals.due(now_s, 1)
        assert bool(due) == (now_s >= changed_s + SETTLE_S)
        if due:
            assert due[0].when_s == changed_s + SETTLE_S
            arrivals.take("a.png", stamp(size))
            break
