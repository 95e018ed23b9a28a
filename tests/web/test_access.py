"""Who may look and who may act: logins, roles, and requests that others forge."""

import httpx
from support.waiting import until

from .conftest import Browser


def test_roles(guarded: str) -> None:
    with Browser(base_url=guarded) as stranger:
        assert stranger.get("/boards?status=broken").headers["location"] == (
            "/login?back=%2Fboards%3Fstatus%3Dbroken"
        )
        assert stranger.get("/live/boards").status_code == 401
        assert stranger.get("/api/v1/boards").status_code == 401
        # The page does not wait for the broker to say so.
        until(lambda: "This farm has accounts" in stranger.page("/login"))
        refused = stranger.login("olga", "wrong")
        assert refused.status_code == 403
        assert "not its password" in refused.text
        assert stranger.login("nobody", "nobody").status_code == 403
        assert stranger.login("a/b").status_code == 403
        assert stranger.get("/").status_code == 303

    for name in ("ann", "otto"):
        with Browser(base_url=guarded) as looking:
            assert looking.login(name, name).status_code == 303
            assert "observer" in looking.page("/boards")
            assert "/do/" not in looking.page("/boards/bench/bench-1")
            assert "may look, but not act" in looking.page("/do/forget?board=bench/bench-1", 403)
            form = {"csrf": looking.token(), "board": "bench/bench-1", "text": "x"}
            assert looking.post("/do/note", data=form).status_code == 403
            wanted = {"devices": ["bench-1"], "text": "x"}
            answer = httpx.post(f"{guarded}/api/v1/boards/note", json=wanted, auth=(name, name))
            assert answer.status_code == 403
            assert "note" not in httpx.get(f"{guarded}/api/v1/me", auth=(name, name)).json()

    with Browser(base_url=guarded) as acting:
        assert acting.login("olga", "olga").status_code == 303
        assert "operator" in acting.page("/")
        assert "/do/forget" in acting.page("/boards/bench/bench-1")
    api = f"{guarded}/api/v1"
    assert httpx.get(f"{api}/me", auth=("olga", "olga")).json() == {
        "name": "olga",
        "role": "operator",
    }
    assert httpx.get(f"{api}/me", auth=("olga", "wrong")).status_code == 401
    assert httpx.get(f"{api}/me", headers={"Authorization": "Basic !"}).status_code == 401
    assert httpx.get(f"{api}/me", headers={"Authorization": "Bearer x"}).status_code == 401
    # Nobody has done anything.
    assert httpx.get(f"{api}/audit", auth=("otto", "otto")).json() == []


def test_forged_requests_are_refused(browser: Browser) -> None:
    note = {"board": "bench/bench-1", "text": "forged"}
    assert browser.post("/do/note", data=note).status_code == 403
    assert browser.post("/do/note", data=note | {"csrf": "x"}).status_code == 403
    token = browser.token()
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    forged = browser.post("/do/note", data=note | {"csrf": token}, headers=elsewhere)
    assert forged.status_code == 403
    wanted = {"devices": ["bench-1"], "text": "forged"}
    assert browser.post("/api/v1/boards/note", json=wanted).status_code == 403
    sent = browser.post("/api/v1/boards/note", json=wanted, auth=("ann", ""), headers=elsewhere)
    assert sent.status_code == 403
    assert browser.post("/logout", data={}).status_code == 403
    assert browser.post("/login", data={"name": "eve"}).status_code == 403
    assert browser.get("/api/v1/boards/bench/bench-1").json()["note"] is None
    # With the token, it is done.
    headers = {"X-CSRF-Token": token}
    assert browser.post("/api/v1/boards/note", json=wanted, headers=headers).status_code == 200
    cookie = browser.get("/").headers.get("set-cookie", "").lower()
    assert not cookie or ("httponly" in cookie and "samesite=strict" in cookie)
    assert browser.post("/logout", data={"csrf": token}).status_code == 303
    assert browser.get("/").status_code == 303


def test_a_stranger_is_told_what_to_type(stranger: Browser) -> None:
    # The page does not wait for the broker to say so.
    until(lambda: "type any name, and leave the password empty" in stranger.page("/login"))


def test_nobody_is_sent_elsewhere_after_a_login(stranger: Browser) -> None:
    form = {"name": "ann", "csrf": stranger.token(), "back": "//evil.example/"}
    assert stranger.post("/login", data=form).headers["location"] == "/"
