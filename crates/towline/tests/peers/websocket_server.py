"""An echo server of Python's `websockets`; prints its port. A text "close 4001 words" asks it to close so."""
import asyncio
import sys

import websockets.asyncio.server as server


async def echo(connection):
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await connection.close(int(code), reason)
            return
        await connection.send(message)


async def main():
    compression = "deflate" if "deflate" in sys.argv else None
    listening = server.serve(echo, "127.0.0.1", 0, max_size=64 << 20, compression=compression)
    async with listening as running:
        print(running.sockets[0].getsockname()[1], flush=True)
        await running.serve_forever()


asyncio.run(main())
