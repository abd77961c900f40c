"""A client of Python's `websockets`: echoes text and binary of many sizes off the server, and closes with 4002."""
import asyncio
import sys

import websockets.asyncio.client as client


async def main(url):
    compression = "deflate" if "deflate" in sys.argv else None
    async with client.connect(url, max_size=64 << 20, compression=compression) as connection:
        for size in (0, 1, 125, 126, 65535, 65536, 1 << 20, 4 << 20):
            for message in (bytes(i * 31 % 251 for i in range(size)), "añ中" * (size // 7)):
                await connection.send(message)
                answer = await connection.recv()
                assert type(answer) is type(message), (size, type(answer))
                assert answer == message, size
        # In fragments, with a ping in between.
        await connection.send(["Hel", "lo ", "there"])
        pong = await connection.ping()
        await pong
        assert await connection.recv() == "Hello there"
        await connection.close(4002, "python is done")
    assert (connection.close_code, connection.close_reason) == (4002, "python is done")


asyncio.run(main(sys.argv[1]))
