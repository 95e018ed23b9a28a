"""The evolution loses nothing to a broker that restarts and to a minute without network."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from examples.disturbed import DESK, LAB, DisturbedFarm
from examples.running import EXAMPLES, RunExample
from faults.network import Namespaces, why_no_namespaces
from support.waiting import until

GENERATIONS, POPULATION, BOARDS = 20, 16, 4
CUT = 60.0


def read(file: Path) -> list[dict[str, Any]]:
    """The whole lines that there are so far."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_short_evolution_is_repeated_by_its_seed(run_example: RunExample, tmp_path: Path) -> None:
    runs = []
    for boards in ("2", "1"):
        results, picture = tmp_path / f"{boards}.jsonl", tmp_path / f"{boards}.png"
        said = run_example(
            "evolution/evolve.py",
            *("--generations", "3", "--population", "4", "--boards", boards),
            *("--results", str(results), "--picture", str(picture)),
        )
        assert said.count("the best makes") == 3
        assert picture.read_bytes().startswith(b"\x89PNG")
        measured = sorted(read(results), key=lambda one: (one["generation"], one["circuit"]))
        assert len(measured) == 12
        assert len({one["board"] for one in measured}) == int(boards)
        runs.append([(one["genome"], one["pulses"], one["error"]) for one in measured])
    # Whichever board was done first.
    assert runs[0] == runs[1]


@pytest.fixture
def disturbed_farm(database_url: str, tmp_path: Path) -> Iterator[DisturbedFarm]:
    why_not = why_no_namespaces()
    if why_not is not None:
        pytest.skip(why_not)
    with Namespaces([LAB, DESK]) as network:
        farm = DisturbedFarm(tmp_path, network, database_url, BOARDS, speed=5)
        try:
            farm.start()
            yield farm
        finally:
            for log in sorted(tmp_path.glob("*.log")):
                print(f"--- {log.stem}\n{log.read_text()[-6000:]}")
            farm.stop()


@pytest.mark.timeout(500)
def test_320_results_through_a_broker_restart_and_a_minute_without_network(
    disturbed_farm: DisturbedFarm, tmp_path: Path
) -> None:
    farm = disturbed_farm
    results, picture = tmp_path / "results.jsonl", tmp_path / "evolution.svg"
    evolution = farm.start_at_the_desk(
        *(sys.executable, str(EXAMPLES / "evolution" / "evolve.py")),
        *("--generations", str(GENERATIONS), "--population", str(POPULATION)),
        *("--boards", str(BOARDS), "--disturbances", str(farm.disturbances)),
        *("--results", str(results), "--picture", str(picture)),
    )

    def goes_on() -> None:
        assert evolution.poll() is None, farm.desk_log.read_text()

    def in_the_middle_of(generation: int) -> bool:
        goes_on()
        return len(read(results)) >= generation * POPULATION + POPULATION // 2

    try:
        until(lambda: in_the_middle_of(5), "generation 5", timeout=120)
        farm.restart_broker(lambda: farm.desk_log.read_text().count("trying again") >= 3)
        until(lambda: in_the_middle_of(10), "generation 10", timeout=120)
        farm.cut_off(CUT, goes_on)
        assert evolution.wait(120) == 0, farm.desk_log.read_text()
    finally:
        evolution.kill()
        evolution.wait()

    measured = read(results)
    times = Counter((one["generation"], one["circuit"]) for one in measured)
    each_once = {(g, c): 1 for g in range(GENERATIONS) for c in range(POPULATION)}
    assert times == each_once
    assert [one["error"] for one in measured if one["error"] is not None] == []
    # Each result is its own circuit's: the same circuit has the same count, before and after.
    pulses: dict[tuple[str, ...], set[int]] = {}
    for one in measured:
        pulses.setdefault(tuple(one["genome"]), set()).add(one["pulses"])
    assert {len(counts) for counts in pulses.values()} == {1}
    assert len(pulses) > GENERATIONS

    restart, cut = read(farm.disturbances)
    assert restart["ended"] < cut["began"] < cut["ended"] - CUT + 1
    for disturbance in (restart, cut):
        assert any(one["at"] < disturbance["began"] for one in measured)
        assert any(one["at"] > disturbance["ended"] for one in measured)
    # What was on its way came in the first seconds, as soon as the program had the time to read it;
    # then nothing did until the network was back.
    during = [one for one in measured if cut["began"] + 10 < one["at"] < cut["ended"]]
    assert during == []

    best = [max(one["fitness"] for one in measured if one["generation"] == g) for g in (0, 19)]
    assert best[0] < 0.7
    assert best[1] > 0.95
    drawn = ElementTree.parse(picture).getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    assert picture.stat().st_size < 300_000
