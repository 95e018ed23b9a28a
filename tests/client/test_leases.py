"""Leases are extended while the process that uses them lives, and end with it."""

import time

import pytest
from support.processes import Processes
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import What


def test_a_lease_is_extended_while_the_process_lives(farm: Processes, mosquitto: Mosquitto) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        with client.reserve(1, duration=6) as held:
            first = held.expires_at

            def steps() -> list[What]:
                return [step.what for step in client.history(reservation=held.id)]

            until(lambda: steps().count(What.EXTENDED) >= 3)
            until(lambda: (held.expires_at - first).total_seconds() > 6)
        # And not after that.
        [last, *_] = client.history(reservation=held.id)
        assert (last.what, last.why) == ("ended", "released")


def test_a_lease_that_somebody_else_has_extended_is_not_made_shorter(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        icefarm.Client(mosquitto.url, name="ann") as other,
        client.reserve(1, duration=10) as held,
    ):
        other.extend(held.id, duration=500)
        until(lambda: (held.expires_at - held.state.created_at).total_seconds() > 400)
        longer = held.expires_at
        # Past the time at which it would have been extended by ten seconds.
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 6)
        assert held.expires_at == longer


def test_a_lease_that_was_found_is_extended_before_it_ends(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    with icefarm.Client(mosquitto.url, name="ann") as client:
        kept = client.reserve(1, duration=15, keep=True, auto_extend=False)
        left_alone = client.reserve(1, keep=True, auto_extend=False)
        left_alone.extend(1)
    with icefarm.Client(mosquitto.url, name="ann") as later:
        found = later.find_reservation(kept.id)
        until(lambda: (found.expires_at - kept.expires_at).total_seconds() > 40)
        with pytest.raises(icefarm.ReservationEndedError, match="is over: expired"):
            until(lambda: later.find_reservation(left_alone.id, auto_extend=False) is None)
        found.release()


def test_an_extension_is_tried_again_while_control_is_away(
    farm: Processes, mosquitto: Mosquitto
) -> None:
    with (
        icefarm.Client(mosquitto.url, name="ann") as client,
        client.reserve(1, duration=20) as held,
    ):
        first = held.expires_at
        farm.kill("control")
        until(lambda: not client.is_served())
        farm.control()
        until(lambda: (held.expires_at - first).total_seconds() > 5)
        assert held.boards[0].status == "ready"
