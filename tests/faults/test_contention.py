"""Many processes that allocate from one database at once: no device ever has two holders."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory

import psycopg
import pytest

from faults.contention import AGENT, BEHAVIOUR, DEVICES, work
from faults.ledger import Ledger
from icefarm_control.database import migrate

ALLOCATIONS = int(os.environ.get("ICEFARM_FAULTS_ALLOCATIONS", "3000"))
PROCESSES = 4


@pytest.fixture
def devices(database_url: str) -> None:
    """Devices that are free, as if an agent had reported them."""
    migrate(database_url)
    with psycopg.connect(database_url) as connection:
        for name in DEVICES:
            connection.execute(
                "INSERT INTO device (agent, name, product, behaviours, status, online) "
                "VALUES (%s, %s, 'virtual', %s, 'available', true)",
                (AGENT, name, [BEHAVIOUR]),
            )


@pytest.mark.usefixtures("devices")
@pytest.mark.timeout(120 + ALLOCATIONS / 50)
def test_no_device_ever_has_two_holders(database_url: str) -> None:
    started = time.monotonic()
    memory = SharedMemory(create=True, size=len(DEVICES) * PROCESSES)
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
            working = [
                pool.submit(
                    work, database_url, memory.name, PROCESSES, own, ALLOCATIONS // PROCESSES
                )
                for own in range(PROCESSES)
            ]
            done = [each.result() for each in working]
    finally:
        memory.close()
        memory.unlink()
    seconds = time.monotonic() - started
    allocations = sum(each.allocations for each in done)
    print(
        f"\n{allocations} allocations by {PROCESSES} processes in {seconds:.1f} s: "
        f"{allocations / seconds:.0f} a second; {sum(each.refused for each in done)} refused for "
        f"want of devices; double holders {sum(each.double_holders for each in done)}"
    )
    ledger = Ledger(database_url)
    try:
        assert sum(each.double_holders for each in done) == 0
        assert ledger.count_allocations() == allocations
        assert ledger.overlaps() == []
        assert ledger.contradictions() == []
        assert ledger.truth().allocations == {}
    finally:
        ledger.close()
