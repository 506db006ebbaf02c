# An echo server and its client over a Unix socket, on asyncio.
import asyncio
import sys


def pattern(c, n):
    block = bytes(i & 255 for i in range(c, c + 251))
    return (block * (n // 251 + 1))[:n]


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
    await writer.drain()
    writer.close()


async def serve(path):
    server = await asyncio.start_unix_server(echo, path, backlog=128)
    async with server:
        await server.serve_forever()


async def call(path, c, n):
    reader, writer = await asyncio.open_unix_connection(path)
    want = pattern(c, n)

    async def send():
        for i in range(0, n, 30000):
            writer.write(want[i : i + 30000])
            await writer.drain()
        writer.write_eof()

    sender = asyncio.create_task(send())
    got = await reader.read()
    await sender
    peer = writer.get_extra_info("peername")
    writer.close()
    if got != want:
        sys.exit(f"connection {c}: {len(got)} bytes of {n} came back")
    return peer


async def client(path, conns, n):
    peers = await asyncio.gather(*(call(path, c, n) for c in range(conns)))
    print(conns, n, peers[-1])


if sys.argv[1] == "server":
    asyncio.run(serve(sys.argv[2]))
else:
    asyncio.run(client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
