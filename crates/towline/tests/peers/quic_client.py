"""An aioquic client.

quic_client.py CA PORT: a stream of 1 MiB and back, twenty streams at once, a datagram, a key update, and another local port in between.
Prints `ok` when everything came back as it was.
"""

import asyncio
import os
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import DatagramFrameReceived


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.datagrams = asyncio.Queue()

    def quic_event_received(self, event):
        if isinstance(event, DatagramFrameReceived):
            self.datagrams.put_nowait(event.data)
        super().quic_event_received(event)


async def echo(client, data):
    reader, writer = await client.create_stream()
    writer.write(data)
    writer.write_eof()
    assert await reader.read() == data, f"{len(data)} bytes came back otherwise"


async def main():
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["test"], max_datagram_frame_size=65536, server_name="localhost"
    )
    configuration.load_verify_locations(sys.argv[1])
    async with connect(
        "127.0.0.1", int(sys.argv[2]), configuration=configuration, create_protocol=Client
    ) as client:
        await echo(client, os.urandom(1 << 20))
        await asyncio.gather(*(echo(client, f"stream {i}".encode()) for i in range(20)))
        client._quic.send_datagram_frame(b"datagram")
        client.transmit()
        assert await client.datagrams.get() == b"datagram"
        client.request_key_update()
        await echo(client, b"after the key update")
        client.change_connection_id()
        await echo(client, b"under another connection id")
    print("ok")


asyncio.run(asyncio.wait_for(main(), 60))
