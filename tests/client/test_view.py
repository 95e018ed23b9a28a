"""What a client concludes from what it is told, and from what it is not told."""

import pytest

from icefarm import view as view_module
from icefarm.view import View
from icefarm_broker import Received
from icefarm_broker.mqtt import Delivery
from icefarm_schemas import (
    ControlState,
    Presence,
    ReservationState,
    ReservationStatus,
    utc_now,
)
from icefarm_schemas.topics import ControlStateTopic, ReservationStateTopic, Topic

QUEUED = ReservationState(
    reservation="r1",
    status=ReservationStatus.QUEUED,
    client="ann",
    session="s1",
    behaviour="pulsecount",
    created_at=utc_now(),
    position=1,
)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(view_module, "time", clock)
    return clock


def tell(view: View, topic: Topic, message: object) -> None:
    delivery = Delivery(topic.build(), b"", 1, True, None, None, (), lambda: None)
    view.observe(Received(topic, message, delivery))


def control_is(view: View, status: Presence) -> None:
    tell(view, ControlStateTopic(), ControlState(status=status))


def test_a_reservation_that_is_not_heard_of_any_more_is_over(clock: Clock) -> None:
    view = View()
    control_is(view, Presence.ONLINE)
    tell(view, ReservationStateTopic("r1"), QUEUED)
    clock.now += 1000
    assert view.find_end("r1") is None, "silence is no end while the connection lasts"
    view.reconnected()
    clock.now += 1000
    assert view.find_end("r1") is None, "control may be away"
    control_is(view, Presence.ONLINE)
    assert view.find_end("r1") is None, "control may be about to tell"
    clock.now += view_module.CERTAIN_AFTER + 1
    assert view.find_end("r1") == QUEUED


def test_a_reservation_that_is_told_of_again_goes_on(clock: Clock) -> None:
    view = View()
    view.expect(QUEUED)
    view.reconnected()
    control_is(view, Presence.ONLINE)
    clock.now += 1
    tell(view, ReservationStateTopic("r1"), QUEUED)
    clock.now += 1000
    assert view.find_end("r1") is None


def test_a_reservation_of_which_only_the_reply_told_is_over_in_the_end(clock: Clock) -> None:
    view = View()
    control_is(view, Presence.ONLINE)
    view.expect(QUEUED)
    clock.now += 1
    assert view.find_end("r1") is None
    clock.now += view_module.CERTAIN_AFTER
    assert view.find_end("r1") == QUEUED
