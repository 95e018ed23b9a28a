"""Every action in a browser: chosen, confirmed or left, done, and told."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect
from support.processes import Processes, wait_for_boards
from support.recorder import Recorder
from support.waiting import PATIENCE, until

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import utc_now
from icefarm_schemas.topics import AgentCommandTopic

from .browsing import Window, window
from .conftest import Browser


@pytest.fixture
def yard(farm: Processes, mosquitto: Mosquitto) -> Processes:
    """The farm with a second agent, `yard`, that has two boards as well."""
    farm.agent("yard", boards=2)
    wait_for_boards(mosquitto.url, 4)
    return farm


@pytest.fixture
def bob(mosquitto: Mosquitto, yard: Processes) -> Iterator[icefarm.Client]:
    with icefarm.Client(mosquitto.url, name="bob") as bob:
        yield bob


def audited(opened: Window) -> int:
    """How much operators have asked for."""
    return len(opened.page.request.get(f"{opened.url}/api/v1/audit").json())


def leave(opened: Window, path: str, link: str) -> None:
    """Choose an action on a page, think again, and see that one is there again and nothing done."""
    before = audited(opened)
    page = opened.open(path)
    page.get_by_role("link", name=link, exact=True).click()
    expect(page).to_have_url(re.compile("/do/"))
    page.get_by_role("link", name="Leave it as it is").click()
    expect(page).to_have_url(opened.url + path)
    expect(page.get_by_role("status")).to_have_count(0)
    assert audited(opened) == before


def do(opened: Window, path: str, link: str, button: str, minutes: str = "", note: str = "") -> str:
    """Choose an action on a page and confirm it; return what that page says then."""
    page = opened.open(path)
    page.get_by_role("link", name=link, exact=True).click()
    return confirm(opened, path, button, minutes, note)


def do_with(opened: Window, path: str, chosen: list[str], action: str, button: str) -> str:
    """Choose some in a table, and an action for them; confirm it; return what is said then."""
    page = opened.open(path)
    for name in chosen:
        page.get_by_role("checkbox", name=name).check()
    page.get_by_role("button", name=action, exact=True).click()
    for name in chosen:
        expect(page.get_by_role("main")).to_contain_text(name.removeprefix("Choose ").split()[0])
    return confirm(opened, path, button)


def confirm(opened: Window, path: str, button: str, minutes: str = "", note: str = "") -> str:
    """Confirm the action that is asked for; return what the page that it was chosen on says."""
    page = opened.page
    expect(page).to_have_url(re.compile("/do/"))
    if minutes:
        page.get_by_label("Minutes").fill(minutes)
    if note:
        page.get_by_label("Note").fill(note)
    page.get_by_role("button", name=button, exact=True).click()
    expect(page).to_have_url(opened.url + path)
    return page.get_by_role("status").inner_text()


def left(client: icefarm.Client, reservation: str) -> float:
    """Minutes until a lease ends."""
    [state] = [r for r in client.reservations() if r.reservation == reservation]
    assert state.expires_at is not None
    return (state.expires_at - utc_now()).total_seconds() / 60


def test_leases_are_extended(ann: Window, bob: icefarm.Client) -> None:
    held = bob.reserve(boards=["bench-1", "yard-1"], duration=600, auto_extend=False)
    places = {
        "/boards/bench/bench-1": "Extend its reservation",
        f"/reservations/{held.id}": "Extend",
        "/clients/bob": "Extend all of bob",
        "/reservations": "Extend all",
    }
    for number, (path, link) in enumerate(places.items(), start=1):
        leave(ann, path, link)
        said = do(ann, path, link, "Extend", minutes=f"{60 * number}")
        assert said.startswith(f"Done: reservation {held.id} of bob now ends at ")
        until(lambda n=number: 60 * n - 1 < left(bob, held.id) <= 60 * n)  # type: ignore[misc]
    said = do_with(ann, "/boards", ["Choose bench-1 of bench"], "Extend them", "Extend")
    assert said.startswith(f"Done: reservation {held.id} of bob now ends at ")


def test_reservations_are_ended(ann: Window, bob: icefarm.Client) -> None:
    held = bob.reserve(boards=["bench-1", "bench-2", "yard-1"])
    leave(ann, "/boards/bench/bench-1", "End for this board")
    said = do(ann, "/boards/bench/bench-1", "End for this board", "End")
    assert said == f"Done: reservation {held.id} of bob goes on with 2 boards."
    until(lambda: sorted(board.name for board in held.boards) == ["bench-2", "yard-1"])
    chosen = ["Choose bench-2 of bench", "Choose yard-1 of yard"]
    said = do_with(ann, "/boards", chosen, "End their reservations", "End")
    assert said == f"Done: reservation {held.id} of bob has ended."
    until(lambda: not bob.reservations())
    for path, link in (
        ("/reservations/{}", "End"),
        ("/clients/bob", "End all of bob"),
        ("/reservations", "End all"),
    ):
        # Those of before may be on their way back.
        held = bob.reserve(1, wait=PATIENCE)
        leave(ann, path.format(held.id), link)
        said = do(ann, path.format(held.id), link, "End")
        assert said == f"Done: reservation {held.id} of bob has ended."
        until(lambda: not bob.reservations())


def test_boards_are_restarted_forgotten_and_noted(
    ann: Window, bob: icefarm.Client, mosquitto: Mosquitto, recorder: Recorder
) -> None:
    def commands(operation: str) -> set[str]:
        found = recorder.of(AgentCommandTopic, operation=operation)
        return {recorded.message.device for recorded in found}

    path = "/boards/bench/bench-1"
    both = ["Choose bench-2 of bench", "Choose yard-1 of yard"]
    leave(ann, path, "Restart")
    leave(ann, path, "Forget and find again")
    assert do(ann, path, "Restart", "Restart") == "Done: bench/bench-1 is being restarted."
    until(lambda: commands("restart_device") == {"bench-1"})
    wait_for_boards(mosquitto.url, 4)
    said = do_with(ann, "/boards", both, "Restart", "Restart")
    assert said == "Done: bench/bench-2 is being restarted; yard/yard-1 is being restarted."
    until(lambda: commands("restart_device") == {"bench-1", "bench-2", "yard-1"})

    leave(ann, path, "Write a note")
    said = do(ann, path, "Write a note", "Write a note", note="its <b>LED</b> is dead")
    assert said == "Done: the note of bench/bench-1 is written."
    expect(ann.page.get_by_role("main")).to_contain_text("its <b>LED</b> is dead")
    page = ann.open("/boards")
    for name in both:
        page.get_by_role("checkbox", name=name).check()
    page.get_by_role("button", name="Write a note").click()
    said = confirm(ann, "/boards", "Write a note", note="in the cupboard")
    assert said == (
        "Done: the note of bench/bench-2 is written; the note of yard/yard-1 is written."
    )
    expect(page.get_by_role("row", name="in the cupboard")).to_have_count(2)

    wait_for_boards(mosquitto.url, 4)
    said = do(ann, path, "Forget and find again", "Forget and find again")
    assert said.startswith("Done: bench/bench-1 is forgotten")
    said = do_with(ann, "/boards", both, "Forget and find again", "Forget and find again")
    assert "yard/yard-1 is forgotten" in said
    until(lambda: commands("forget") == {"bench-1", "bench-2", "yard-1"})
    wait_for_boards(mosquitto.url, 4)
    expect(ann.open("/boards").get_by_role("row")).to_have_count(5)
    expect(ann.page.get_by_text("in the cupboard")).to_have_count(0)


def test_agents_are_drained_resumed_restarted_and_forgotten(
    ann: Window, bob: icefarm.Client, yard: Processes, mosquitto: Mosquitto
) -> None:
    held = bob.reserve(boards=["yard-1"])
    for link in ("Drain", "Resume", "Restart"):
        leave(ann, "/agents/yard", link)
        leave(ann, "/agents", f"{link} all")
    said = do(ann, "/agents/yard", "Drain", "Drain", minutes="5")
    assert said.startswith("Done: yard is drained; 1 reservation has boards of it until ")
    expect(ann.page.get_by_role("main")).to_contain_text("draining")
    said = do(ann, "/agents/yard", "Resume", "Resume")
    assert said == "Done: yard gives its boards away again."
    held.release()
    both = ["Choose bench", "Choose yard"]
    said = do_with(ann, "/agents", both, "Drain", "Drain")
    assert said.count("is drained, and nobody holds boards of it") == 2
    said = do_with(ann, "/agents", both, "Resume", "Resume")
    assert said.count("gives its boards away again") == 2
    wait_for_boards(mosquitto.url, 4)
    said = do_with(ann, "/agents", ["Choose yard"], "Restart", "Restart")
    assert said == "Done: yard is restarted, and nobody holds boards of it."
    assert yard.wait("agent-yard") == 75
    expect(ann.open("/agents").get_by_role("row", name="yard")).to_contain_text("offline")
    yard.agent("yard", boards=2)
    wait_for_boards(mosquitto.url, 4)
    assert do(ann, "/agents", "Drain all", "Drain").count("is drained") == 2
    assert do(ann, "/agents", "Resume all", "Resume").count("gives its boards away") == 2
    wait_for_boards(mosquitto.url, 4)
    assert do(ann, "/agents", "Restart all", "Restart").count("is restarted") == 2
    assert (yard.wait("agent-bench"), yard.wait("agent-yard")) == (75, 75)
    until(lambda: "offline" in ann.open("/agents/yard").get_by_role("main").inner_text())
    ann.page.get_by_role("link", name="Forget", exact=True).click()
    assert confirm(ann, "/agents", "Forget") == "Done: yard is forgotten."
    expect(ann.page.get_by_role("row", name="yard")).to_have_count(0)


def test_what_cannot_be_done_is_said(ann: Window, bob: icefarm.Client) -> None:
    page = ann.open("/boards")
    page.get_by_role("button", name="Restart", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("nothing was chosen")
    held = bob.reserve(1)
    page = ann.open(f"/reservations/{held.id}")
    page.get_by_role("link", name="End", exact=True).click()
    expect(page).to_have_url(re.compile("/do/"))
    held.release()
    said = confirm(ann, f"/reservations/{held.id}", "End")
    assert said.startswith("Nothing was done: ")


def test_an_observer_is_offered_no_action_and_refused(guarded: str, chromium: Chromium) -> None:
    asked = "/do/restart-boards?board=bench/bench-1"
    with window(chromium, guarded) as opened:
        opened.login("otto", "otto")
        for path in (
            "/",
            "/boards",
            "/boards/bench/bench-1",
            "/agents",
            "/agents/bench",
            "/reservations",
            "/clients/ann",
        ):
            page = opened.open(path)
            expect(page.get_by_text("observer")).to_be_visible()
            assert page.locator("a[href^='/do/'], [formaction], [type=checkbox]").count() == 0
        opened.expect("/do/restart-boards", 403)
        expect(opened.open(asked).get_by_role("main")).to_contain_text("may look, but not act")
    with window(chromium, guarded) as opened:
        opened.login("olga", "olga")
        expect(opened.open(asked).get_by_role("button", name="Restart")).to_be_visible()
    with Browser(base_url=guarded) as otto:
        otto.login("otto", "otto")
        assert otto.get("/api/v1/audit").json() == []
