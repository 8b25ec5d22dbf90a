#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""A WebSocket server that answers each message with the same, in angle brackets; "close" closes."""
import asyncio
import os

import websockets


async def serve(connection, *_):
    async for message in connection:
        if message == "close":
            await connection.close(4321, "as told")
            return
        await connection.send(b"<" + message + b">" if isinstance(message, bytes) else f"<{message}>")


async def main():
    async with websockets.serve(serve, "0.0.0.0", int(os.environ["PORT"])):
        await asyncio.Future()

asyncio.run(main())
