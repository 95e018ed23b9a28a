"""Ten thousand boards: their page opens in under a second, and changes are seen as soon as ever."""

import statistics
import time

from benchmarks.farm import reported_devices
from support.processes import Processes
from support.waiting import until_async

import icefarm
from icefarm_broker.mosquitto import Mosquitto
from icefarm_schemas import Operation, ReserveRequest

from .conftest import Browser


async def test_ten_thousand_boards(processes: Processes, mosquitto: Mosquitto) -> None:
    processes.control(web=True)
    # Control takes in all these boards while somebody logs in.
    with Browser(base_url=processes.dashboard(), timeout=30) as browser:
        async with (
            reported_devices(mosquitto.url, 10, 1000),
            icefarm.AsyncClient(mosquitto.url, name="bob") as bob,
        ):
            assert browser.login("ann").status_code == 303

            async def are_known() -> bool:
                found: int = browser.get("/api/v1/boards", params={"limit": 1}).json()["total"]
                return found == 10_000

            await until_async(are_known, timeout=60)
            for path in (
                "/boards",
                "/boards?search=agent-7-99&order=-client",
                "/boards?status=available&page=150&order=expires_at",
                "/agents/agent-3",
                "/",
            ):
                took = []
                for _ in range(5):
                    begun = time.perf_counter()
                    page = browser.page(path)
                    took.append(time.perf_counter() - begun)
                assert page.count("<tr") <= 60
                print(f"{path}: {statistics.median(took):.3f} s, {len(page):,} characters")
                assert statistics.median(took) < 1, path
            # Nobody gets these boards ready, so it is only asked for one.
            wanted = ReserveRequest(behaviour="pulsecount", devices=("agent-0-0",))
            await bob._request(Operation.RESERVE, wanted)
            begun = time.perf_counter()

            async def is_held() -> bool:
                return "bob" in browser.page("/boards?order=client")

            await until_async(is_held)
            assert time.perf_counter() - begun < 2
