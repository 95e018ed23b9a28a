"""Which bitstream goes where next."""

from icefarm.backlog import MOST_WAITING, Backlog, Work
from icefarm.boards import BoardKey
from icefarm.results import Bitstream

A, B, C = [("bench", name) for name in "abc"]


def work(index: int, *boards: BoardKey) -> Work:
    return Work(Bitstream(index, str(index), b""), {*boards} if boards else None)


def taken(backlog: Backlog, room: dict[BoardKey, int]) -> list[tuple[int, list[BoardKey]]]:
    """All that can be sent; each takes its room."""
    sent = []
    while (chosen := backlog.take(room)) is not None:
        found, boards = chosen
        for board in boards:
            room[board] -= 1
        sent.append((found.bitstream.index, boards))
    return sent


def of(*works: Work) -> Backlog:
    backlog = Backlog()
    for each in works:
        backlog.add(each)
    return backlog


def test_any_board_takes_what_names_none() -> None:
    backlog = of(*(work(n) for n in range(4)))
    assert taken(backlog, {A: 1, B: 2}) == [(0, [B]), (1, [A]), (2, [B])]
    assert len(backlog) == 1
    assert not backlog.needs_more({A: 0, B: 0})
    assert backlog.needs_more({A: 1, B: 0})


def test_one_message_serves_all_boards_of_a_bitstream() -> None:
    backlog = of(work(0, A, B), work(1, A, B))
    assert taken(backlog, {A: 2, B: 1}) == [(0, [A, B])]


def test_boards_are_served_in_order_and_hold_up_no_others() -> None:
    backlog = of(work(0, A), work(1, A, B), work(2, B), work(3, C), work(4))
    # The second waits for A, so B is kept for it.
    assert taken(backlog, {A: 0, B: 1, C: 1}) == [(3, [C])]
    assert taken(backlog, {A: 2, B: 1, C: 1}) == [(0, [A]), (1, [A, B]), (4, [C])]
    assert taken(backlog, {A: 0, B: 1, C: 0}) == [(2, [B])]


def test_a_board_that_is_away_gets_its_part_later() -> None:
    backlog = of(work(0, A, B), work(1, A, B))
    assert taken(backlog, {A: 2}) == [(0, [A]), (1, [A])]
    assert backlog.wanted() == {B}
    assert taken(backlog, {A: 2, B: 2}) == [(0, [B]), (1, [B])]
    assert len(backlog) == 0


def test_what_waits_for_a_lost_board_waits_no_more() -> None:
    backlog = of(work(0, A, B), work(1, A), work(2))
    assert [(w.bitstream.index, board) for w, board in backlog.lose([A])] == [(0, A), (1, A)]
    assert taken(backlog, {B: 5}) == [(0, [B]), (2, [B])]


def test_a_board_that_was_lost_with_it_does_not_get_it_again_at_once() -> None:
    moved = work(0)
    moved.lost.append(A)
    backlog = Backlog()
    backlog.put_back(moved)
    assert backlog.take({A: 3, B: 0}) is None
    assert backlog.take({A: 3, B: 1}) == (moved, [B])
    backlog.put_back(moved)
    assert backlog.take({A: 3}) == (moved, [A])


def test_not_everything_is_read_ahead() -> None:
    backlog = of(*(work(n, A) for n in range(MOST_WAITING - 1)))
    assert backlog.needs_more({A: 0, B: 1})
    assert not backlog.needs_more({A: 1})
    backlog.add(work(0, A))
    assert not backlog.needs_more({A: 0, B: 1})
