"""A process that answers: the other side of the floor of every request.

    python -m benchmarks.echo BROKER

It has what control cannot do without, a connection to the broker, and nothing else.
"""

import asyncio
import json
import sys

from benchmarks.plain_connection import connect
from icefarm_broker.packets import Delivery, Outgoing

REQUESTS = "floor/requests"
"""The topic that is answered, each message with its own payload on its response topic."""


async def main(url: str) -> None:
    """Answer until it is ended."""
    answers: set[asyncio.Task[None]] = set()

    def answer(delivery: Delivery) -> None:
        delivery.acknowledge()
        assert delivery.response_topic is not None
        reply = Outgoing(
            delivery.response_topic, delivery.payload, correlation=delivery.correlation
        )
        task = asyncio.create_task(client.publish_and_confirm(reply))
        answers.add(task)
        task.add_done_callback(answers.discard)

    client = await connect(url, "echo", answer)
    await client.subscribe_to([REQUESTS])
    print(json.dumps("ready"), flush=True)
    await client.lost


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
