"""Event streams through proxies that gather what comes and cut off who is silent: a long prefill is neither."""

import asyncio
import json
import shutil
from contextlib import asynccontextmanager

import pytest

from tests.e2e.fetching import deb_into, fetched
from tests.e2e.proxying import proxied
from tests.gate import DEADLINE
from tests.processes import free_port
from tests.serving import GREEDY, eventually

IDLE = 1.0
"""Seconds after which a proxy takes a server for dead; nginx's default is 60."""
BEAT = IDLE / 10
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
  access_log off; proxy_read_timeout {idle}s; proxy_buffering on; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{server}; proxy_http_version 1.1; }} }}
}}
"""


async def through(server, url):
    """A stream whose prompt takes four times as long as the proxy waits; its comments meanwhile, then its events."""
    server.service.keepalive_seconds = BEAT
    server.gate.hold()
    body = json.dumps({"input": "Hello", "stream": True, **GREEDY})
    async with server.http.post(url + "/v1/responses", data=body) as answer:
        assert answer.status == 200
        comments, kinds = 0, []
        async for line in answer.content:
            comments += line.startswith(b":")
            if comments >= 4 * IDLE / BEAT:
                server.gate.open()
            if line.startswith(b"event: "):
                kinds.append((comments, line.decode().split()[1]))
    return comments, kinds


def is_whole(comments, kinds):
    assert comments >= 4 * IDLE / BEAT
    before, first = kinds[0]
    assert first == "response.created" and before <= 1, "it comes at once, not with all the rest"
    assert kinds[-1][1] == "response.incomplete"


async def test_a_proxy_that_waits_for_no_one_passes_it_on(serve):
    async with serve() as server, proxied(server.port, IDLE) as proxy:
        is_whole(*await through(server, proxy.url))
        assert proxy.cut == 0


async def test_the_proxy_is_one_that_cuts(serve):
    """What the test above would miss: without comments the same proxy gives up."""
    async with serve() as server, proxied(server.port, BEAT) as proxy:
        server.gate.hold()
        body = json.dumps({"input": "Hello", "stream": True, **GREEDY})
        async with server.http.post(proxy.url + "/v1/responses", data=body) as answer:
            with pytest.raises(Exception, match=r"[Pp]ayload"):
                await answer.read()
        assert proxy.cut == 1


@asynccontextmanager
async def nginx(server, folder):
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    program = "usr/sbin/nginx"
    found = found or fetched("nginx", deb_into("nginx"), program) / program
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, idle=int(IDLE), port=port, server=server.port))
    process = await asyncio.create_subprocess_exec(found, "-c", str(conf), "-p", str(folder))
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
        writer.close()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_nginx_passes_it_on(serve, tmp_path):
    async with serve() as server, nginx(server, tmp_path) as url:
        is_whole(*await through(server, url))
        await eventually(lambda: not server.hub.turns)
