"""What operators do from a page or by the REST API, and what they are told."""

import re

from support.processes import Processes, wait_for_boards
from support.waiting import until

import icefarm
from icefarm_broker.mosquitto import Mosquitto

from .conftest import Browser


def act(browser: Browser, path: str, **typed: str) -> str:
    """Choose an action on a page, confirm it, and return what that page says then."""
    asked = browser.page(path)
    form = re.search(r'<form class="login".*?</form>', asked, re.DOTALL)
    assert form is not None, asked
    fields = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    data: dict[str, list[str]] = {}
    for name, value in (*fields, *typed.items()):
        data.setdefault(name, []).append(value)
    done = browser.post(path.partition("?")[0], data=data)
    assert done.status_code == 303, done.text
    told = re.search(r'role="status">\s*<p>(.*?)</p>', browser.page(done.headers["location"]))
    assert told is not None
    # It is said once.
    assert told[1] not in browser.page(done.headers["location"])
    return told[1]


def test_reservations_are_extended_and_ended(browser: Browser, mosquitto: Mosquitto) -> None:
    with icefarm.Client(mosquitto.url, name="bob") as bob:
        held = bob.reserve(2, duration=600)
        one, other = sorted(board.name for board in held.boards)
        said = act(browser, f"/do/extend?reservation={held.id}", minutes="90")
        assert said.startswith(f"Done: reservation {held.id} of bob now ends at ")
        assert act(browser, "/do/extend?client=bob", minutes="60").startswith("Done: reservation")
        said = act(browser, f"/do/end?board=bench/{one}&back=/boards")
        assert said == f"Done: reservation {held.id} of bob goes on with 1 boards."
        until(lambda: [board.name for board in held.boards] == [other])
        said = act(browser, "/do/end?client=bob")
        assert said == f"Done: reservation {held.id} of bob has ended."
        until(lambda: not bob.reservations())
        assert "Nothing was done: " in act(browser, f"/do/end?reservation={held.id}")
        assert act(browser, "/do/end?all=yes") == "There was nothing to do."
    page = browser.page("/audit")
    assert page.count("ann") >= 6
    assert "Refused:" in page
    assert "asked by" in browser.page(f"/reservations/{held.id}").lower()


def test_boards_are_noted_restarted_and_forgotten(
    browser: Browser, mosquitto: Mosquitto, farm: Processes
) -> None:
    board = "/do/{}?board=bench/bench-1"
    said = act(browser, board.format("note"), text="its <LED> is dead")
    assert said == "Done: the note of bench/bench-1 is written."
    assert "its &lt;LED&gt; is dead" in browser.page("/boards")
    assert "bench-1" in browser.page("/boards?search=led")
    with icefarm.Client(mosquitto.url, name="bob") as bob, bob.reserve(boards=["bench-1"]) as held:
        until(lambda: [b.status for b in held.boards] == ["ready"])
        said = act(browser, board.format("restart-boards"))
        assert said == "Done: bench/bench-1 is being restarted."
    said = act(browser, board.format("forget"))
    assert said.startswith("Done: bench/bench-1 is forgotten")
    until(lambda: "available" in browser.page("/boards?search=bench-1"))
    assert "Note:" not in browser.page("/boards")


def test_agents_are_drained_and_resumed(browser: Browser, mosquitto: Mosquitto) -> None:
    said = act(browser, "/do/drain?agent=bench", minutes="10")
    assert said == "Done: bench is drained, and nobody holds boards of it."
    until(lambda: "<b>0</b> of 2" in browser.page("/"))
    assert "draining" in browser.page("/boards")
    assert "asked by ann" in browser.page("/agents/bench")
    assert act(browser, "/do/resume?all=yes") == "Done: bench gives its boards away again."
    until(lambda: "<b>2</b> of 2" in browser.page("/"))


def test_an_agent_that_will_not_come_back_is_forgotten(
    browser: Browser, farm: Processes, mosquitto: Mosquitto
) -> None:
    farm.agent("old", boards=1)
    wait_for_boards(mosquitto.url, 3)
    assert "/do/forget-agents" not in browser.page("/agents/old")
    said = act(browser, "/do/forget-agents?agent=old")
    assert said == "Nothing was done: the agent 'old' is there; stop it first.".replace(
        "'", "&#39;"
    )
    farm.kill("agent-old")
    until(lambda: "/do/forget-agents" in browser.page("/agents/old"))
    assert act(browser, "/do/forget-agents?agent=old&back=/agents") == "Done: old is forgotten."
    # Not the name alone, which may be in what forms bring back.
    assert "/agents/old" not in browser.page("/agents")
    with icefarm.Client(mosquitto.url, name="bob") as bob:
        # At the broker, too.
        until(lambda: [agent.name for agent in bob.agents()] == ["bench"])
        assert [board.agent for board in bob.boards()] == ["bench", "bench"]
        farm.agent("old", boards=1)
        until(lambda: len(bob.boards()) == 3)
    until(lambda: "/agents/old" in browser.page("/agents"))


def test_the_api_does_the_same(browser: Browser, farm: Processes, mosquitto: Mosquitto) -> None:
    api = Browser(base_url=f"{farm.dashboard()}/api/v1", auth=("ann", ""))
    with api, icefarm.Client(mosquitto.url, name="bob") as bob:
        held = bob.reserve(1)
        [found] = api.get("/reservations", params={"client": "bob"}).json()["reservations"]
        assert (found["id"], found["status"]) == (held.id, "active")
        tried = api.post("/reservations/end", json={"client": "bob", "dry_run": True})
        assert [state["status"] for state in tried.json()] == ["ended"]
        assert api.get(f"/reservations/{held.id}").json()["status"] == "active"
        key = {"Idempotency-Key": "once"}
        for _ in range(2):
            done = api.post("/reservations/end", json={"client": "bob"}, headers=key)
            assert [state["reservation"] for state in done.json()] == [held.id]
        refused = api.post("/reservations/end", json={"reservations": [held.id]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "reservation_ended")
        assert api.post("/agents/drain", json={"agents": ["nobody"]}).status_code == 404
        assert api.post("/agents/drain", json={"agents": ["bench"], "all": True}).status_code == 422
        assert api.post("/agents/forget", json={"agents": ["nobody"]}).status_code == 404
        assert api.post("/agents/forget", json={"agents": ["bench"]}).status_code == 409
        assert api.post("/boards/note", content="text=x").status_code == 422
        assert [entry["operation"] for entry in api.get("/audit").json()] == [
            "forget_agents",
            "forget_agents",
            "drain",
            "end",
            "end",
            "end",
        ]
        used = api.get("/usage").json()
        assert [client["name"] for client in used["clients"]] == ["bob"]
        assert len(used["over_time"]) == 48
        assert [agent["status"] for agent in api.get("/agents").json()] == ["online"]
        assert api.get("/availability").json()["boards"]["total"] == 2
        assert {step["what"] for step in api.get("/history").json()} == {"active", "ended"}
