"""A client's process that evaluates bitstreams on boards, through the library as a user would.

    python -m benchmarks.evaluating_client BROKER BOARDS BITSTREAMS [every]

It says that its boards are ready, evaluates when it is told to, tells the errors (there should be
none), and releases the boards at the end of its input.
"""

import asyncio
import json
import sys
from collections.abc import Iterator

import icefarm
from benchmarks.requesting import until_available, until_served
from benchmarks.timed_boards import NUMBER_BYTES
from icefarm_agent.behaviours.measuring import BITSTREAM_BYTES


def _bitstreams(count: int) -> Iterator[bytes]:
    """Each of the size that an iCE40UP5K takes, with its number at the end."""
    body = bytes(BITSTREAM_BYTES - NUMBER_BYTES)
    for number in range(count):
        yield body + number.to_bytes(NUMBER_BYTES, "big")


async def main(url: str, boards: int, count: int, on_every_board: bool) -> None:
    """Evaluate once."""
    async with icefarm.AsyncClient(url, name="bench") as client:
        await until_served(client)
        await until_available(client, boards)
        async with client.reserve(boards) as reservation:
            print(json.dumps("ready"), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            errors, results = [], 0
            evaluating = reservation.evaluate(_bitstreams(count), on_every_board=on_every_board)
            async for result in evaluating:
                results += 1
                if result.error is not None or result.pulses != result.index:
                    errors.append(f"{result}")
            if results != count * (boards if on_every_board else 1):
                errors.append(f"{results} results")
            print(json.dumps(errors), flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    _, broker, boards_count, bitstreams_count, *every = sys.argv
    asyncio.run(main(broker, int(boards_count), int(bitstreams_count), every == ["every"]))
