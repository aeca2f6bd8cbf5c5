# SPDX-License-Identifier: GPL-3.0-or-later
"""A slow address of a gateway: each answer begins so much later. slow_address.py HOST PORT TO_PORT SECONDS"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Any

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def pass_on(client: Ends, gateway: Ends, seconds: float) -> None:
    """One connection, whose answers wait."""
    (reader, writer), (to_reader, to_writer) = client, gateway
    asked = asyncio.Event()

    async def requests() -> None:
        while part := await reader.read(65536):
            asked.set()
            to_writer.write(part)
            await to_writer.drain()
        to_writer.close()

    async def answers() -> None:
        while part := await to_reader.read(65536):
            if asked.is_set():
                asked.clear()
                await asyncio.sleep(seconds)
            writer.write(part)
            await writer.drain()
        writer.close()

    with suppress(OSError):  # a client that has what it wanted
        await asyncio.gather(requests(), answers())


async def main(host: str, port: str, to_port: str, seconds: str) -> None:
    async def connected(*client: Any) -> None:
        await pass_on(client, await asyncio.open_connection(host, int(to_port)), float(seconds))

    server = await asyncio.start_server(connected, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
