"""What is served over HTTP comes without waiting for what the network saves up."""

import socket

from icefarm_broker.http import _listen


async def test_answers_are_sent_at_once() -> None:
    with await _listen("127.0.0.1", 0, "this is", "--web") as listener:
        with socket.create_connection(listener.getsockname()):
            listener.setblocking(True)
            connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
