"""The way out of a box, attacked. The world it leads to is a real server on the loopback, which each test opens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
import subprocess

import pytest

from fakes.boxes import make_box, make_workspace, soon
from fakes.outside import CERTIFICATE, Names, World, allow, egress
from nightcrew_workspaces.box import box_user
from nightcrew_workspaces.egress import Egress, EgressLimits, Upstream, Visit, parse_upstream
from nightcrew_workspaces.errors import EgressError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
QUICK = {"head_seconds": 0.3, "dial_seconds": 5.0, "idle_seconds": 0.3, "total_seconds": 20.0}


@pytest.fixture
async def world():
    async with World() as server:
        yield server


@pytest.fixture
def visits() -> list[Visit]:
    return []


async def connect(way_out: Egress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    folder = os.open(way_out.mount.socket.parent, os.O_RDONLY)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/proxy")
    finally:
        os.close(folder)


async def say(way_out: Egress, data: bytes, *, wait: float = 20) -> bytes:
    """What the proxy answers until it closes."""
    reader, writer = await connect(way_out)
    writer.write(data)
    try:
        async with asyncio.timeout(wait):
            return await reader.read()
    except ConnectionResetError:  # closed with something of what was sent unread
        return b""
    finally:
        writer.close()


def get(url: str, host: str = "mirror.test", more: str = "") -> bytes:
    return f"GET {url} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


async def tunnel(way_out: Egress, authority: str) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await connect(way_out)
    writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    return await reader.readuntil(b"\r\n\r\n"), reader, writer


async def tls_through(way_out: Egress, authority: str, name: str) -> bytes:
    """What a server behind a tunnel answers a client that trusts it and asks for this name."""
    _, reader, writer = await tunnel(way_out, authority)
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    try:
        await writer.start_tls(context, server_hostname=name)
        writer.write(b"GET / HTTP/1.1\r\nHost: mirror.test\r\n\r\n")
        return await reader.readuntil(b"outside\n")
    finally:
        writer.close()


# What is let through


async def test_a_plain_request_to_an_allowed_host_is_answered(open_tmp, world, visits):
    async with egress(open_tmp, f"mirror.test:{world.plain}", visits=visits) as way_out:
        answer = await say(way_out, get(f"http://mirror.test:{world.plain}/a?b", f"mirror.test:{world.plain}"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(world.body)
    assert world.requests[0].startswith(b"GET /a?b HTTP/1.1\r\n")
    decided, ended = visits
    assert (decided.allowed, decided.address, decided.ended) == (True, "127.0.0.1", False)
    assert (ended.why, ended.ended) == ("", True)
    assert ended.sent == len(world.requests[0])
    assert ended.received > len(world.body)


async def test_a_tunnel_to_an_allowed_host_carries_tls_that_is_not_opened(open_tmp, world, visits):
    async with egress(open_tmp, f"mirror.test:{world.tls}", visits=visits) as way_out:
        assert world.body in await tls_through(way_out, f"mirror.test:{world.tls}", "mirror.test")
        await soon(lambda: len(visits) == 2)
    assert visits[1].method == "CONNECT"
    assert visits[1].sent > 300
    assert visits[1].received > 300


async def test_a_body_is_passed_on_with_or_without_its_length(open_tmp, world):
    url = f"http://mirror.test:{world.plain}/"
    head = f"POST {url} HTTP/1.1\r\nHost: mirror.test:{world.plain}\r\nContent-Length: 5\r\n\r\n"
    async with egress(open_tmp, f"mirror.test:{world.plain}") as way_out:
        assert (await say(way_out, head.encode() + b"12345")).startswith(b"HTTP/1.1 200")
    assert world.requests[0].endswith(b"\r\n\r\n12345")


async def test_what_concerns_only_the_proxy_does_not_go_further(open_tmp, world):
    more = "Proxy-Authorization: Basic c2VjcmV0\r\nConnection: X-Private, close\r\nX-Private: 1\r\nX-Public: 2\r\n"
    async with egress(open_tmp, f"mirror.test:{world.plain}") as way_out:
        await say(way_out, get(f"http://mirror.test:{world.plain}/", f"mirror.test:{world.plain}", more))
    assert b"c2VjcmV0" not in world.requests[0]
    assert b"x-private" not in world.requests[0].lower()
    assert b"x-public: 2" in world.requests[0].lower()


# Where it does not lead


async def test_a_host_that_nobody_allowed_gets_403_with_a_sentence_and_a_line_in_the_log(open_tmp, world, visits):
    async with egress(open_tmp, visits=visits) as way_out:
        answer = await say(way_out, b"CONNECT mirror.test:443 HTTP/1.1\r\nHost: mirror.test:443\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Forbidden (Nightcrew: mirror.test:443 is refused: the task's `network`")
    (visit,) = visits
    assert (visit.host, visit.port, visit.allowed, visit.ended) == ("mirror.test", 443, False, True)
    assert world.connections == 0


async def test_another_port_of_an_allowed_host_is_refused(open_tmp, world):
    async with egress(open_tmp, "mirror.test") as way_out:
        answer = await say(way_out, get(f"http://mirror.test:{world.plain}/", f"mirror.test:{world.plain}"))
    assert answer.startswith(b"HTTP/1.1 403")
    assert not world.requests


@pytest.mark.parametrize("answer", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]])
async def test_a_name_with_any_address_inside_is_refused(open_tmp, world, visits, answer):
    names = Names(mirror_test=answer)
    async with egress(open_tmp, f"mirror.test:{world.plain}", names=names, private=(), visits=visits) as way_out:
        said = await say(way_out, get(f"http://mirror.test:{world.plain}/", f"mirror.test:{world.plain}"))
    assert said.startswith(b"HTTP/1.1 403")
    assert "network.private" in visits[0].why
    assert world.connections == 0


async def test_an_allowed_address_is_checked_like_a_name_s(open_tmp, world, visits):
    async with egress(open_tmp, f"127.0.0.1:{world.plain}", private=(), visits=visits) as way_out:
        said = await say(way_out, get(f"http://127.0.0.1:{world.plain}/", f"127.0.0.1:{world.plain}"))
    assert said.startswith(b"HTTP/1.1 403")
    assert visits[0].why.startswith("it is this machine itself")


async def test_a_second_answer_of_the_resolver_is_never_asked_for(open_tmp, world, visits):
    # The first answer may be reached; a proxy that looked the name up again to dial it would dial the second one.
    names = Names(mirror_test=[["127.0.0.2"], ["127.0.0.1"]])
    async with egress(open_tmp, f"mirror.test:{world.plain}", names=names, visits=visits) as way_out:
        await say(way_out, get(f"http://mirror.test:{world.plain}/", f"mirror.test:{world.plain}"))
    assert names.asked == ["mirror.test"]
    assert visits[0].address == "127.0.0.2"
    assert world.connections == 0  # the world listens on 127.0.0.1 only


async def test_the_next_checked_address_is_tried_when_one_does_not_answer(open_tmp, world, visits):
    names = Names(mirror_test=["127.0.0.2", "127.0.0.1"])
    async with egress(open_tmp, f"mirror.test:{world.plain}", names=names, visits=visits) as way_out:
        answer = await say(way_out, get(f"http://mirror.test:{world.plain}/", f"mirror.test:{world.plain}"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert visits[1].address == "127.0.0.1"


async def test_a_host_that_does_not_answer_is_a_502(open_tmp, world, visits):
    async with egress(open_tmp, "mirror.test:9", visits=visits) as way_out:
        assert (await say(way_out, b"CONNECT mirror.test:9 HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 502")
    assert visits[1].why.startswith("not reached")


# Saying one thing and meaning another


async def test_tls_for_another_host_than_the_tunnel_s_is_cut_off(open_tmp, world, visits):
    async with egress(open_tmp, f"mirror.test:{world.tls}", visits=visits) as way_out:
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await tls_through(way_out, f"mirror.test:{world.tls}", "other.test")
        await soon(lambda: len(visits) == 2)
    assert visits[1].why == "cut off: TLS for 'other.test' in a tunnel to mirror.test"
    assert visits[1].sent == 0
    assert not world.requests


async def test_a_tunnel_carries_nothing_but_tls(open_tmp, world, visits):
    async with egress(open_tmp, f"mirror.test:{world.plain}", visits=visits) as way_out:
        head, reader, writer = await tunnel(way_out, f"mirror.test:{world.plain}")
        assert head.startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await soon(lambda: len(visits) == 2)
    assert visits[1].why == "cut off: not TLS"
    assert not world.requests


SMUGGLED = [
    "GET http://mirror.test:{p}/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
    "GET http://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\nHost: other.test\r\n\r\n",
    "GET http://mirror.test:{p}/ HTTP/1.1\r\n\r\n",
    "GET http://other.test@mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: mirror.test:{p}\r\n\r\n",
    "GET https://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\n\r\n",
    "GET file://mirror.test/etc/passwd HTTP/1.1\r\nHost: mirror.test\r\n\r\n",
    "POST http://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\n"
    "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST http://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\n"
    "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "POST http://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\nContent-Length: +1\r\n\r\na",
    "POST http://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "GET http://mirror.test:{p}/ HTTP/1.1\r\nHost : mirror.test:{p}\r\n\r\n",
    "GET http://mirror.test:{p}/\x00 HTTP/1.1\r\nHost: mirror.test:{p}\r\n\r\n",
    "GET http://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\nX: a\rGET http://other.test/ HTTP/1.1\r\n\r\n",
    "CONNECT mirror.test HTTP/1.1\r\nHost: mirror.test\r\n\r\n",
    "CONNECT mirror.test:{p} HTTP/1.1\r\nHost: mirror.test:{p}\r\n\r\n\x16\x03\x01",
    "CONNECT http://mirror.test:{p}/ HTTP/1.1\r\nHost: mirror.test:{p}\r\n\r\n",
    "CONNECT mirror.test:{p}@other.test:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
]


@pytest.mark.parametrize("request_text", SMUGGLED)
async def test_what_can_be_read_in_two_ways_is_not_passed_on(open_tmp, world, visits, request_text):
    data = request_text.format(p=world.plain).encode("latin-1")
    async with egress(open_tmp, f"mirror.test:{world.plain}", "other.test", visits=visits) as way_out:
        answer = await say(way_out, data)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert not world.requests
    assert visits
    assert not visits[0].allowed


async def test_a_second_request_behind_the_first_goes_nowhere(open_tmp, world):
    one = get(f"http://mirror.test:{world.plain}/1", f"mirror.test:{world.plain}")
    async with egress(open_tmp, f"mirror.test:{world.plain}") as way_out:
        answer = await say(way_out, one + one.replace(b"/1", b"/2"))
    assert answer.count(b"HTTP/1.1 200") == 1
    assert len(world.requests) == 1


async def test_headers_in_an_answer_cannot_begin_a_second_one(open_tmp, world):
    async def lie(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"HTTP/1.1 200 OK\r\n\r\n"
        )
        writer.close()

    async with await asyncio.start_server(lie, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with egress(open_tmp, f"mirror.test:{port}") as way_out:
            answer = await say(way_out, get(f"http://mirror.test:{port}/", f"mirror.test:{port}"))
    assert answer.count(b"HTTP/1.1") == 1
    assert b"content-length" not in answer.lower()


# Too much and too slow


async def test_a_head_that_never_ends_is_cut_off(open_tmp, world):
    async with egress(open_tmp, "mirror.test", limits=EgressLimits(**QUICK)) as way_out:
        reader, writer = await connect(way_out)
        writer.write(b"GET http://mirror.test/ HTTP/1.1\r\n")
        assert await reader.read() == b""
        writer.close()


async def test_a_head_without_end_in_size_is_refused(open_tmp, world):
    async with egress(open_tmp, "mirror.test") as way_out:
        answer = await say(way_out, b"GET http://mirror.test/ HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
    assert answer.startswith(b"HTTP/1.1 400")


async def test_a_tunnel_in_which_nothing_moves_is_cut_off(open_tmp, world, visits):
    world.hang = True
    limits = EgressLimits(**{**QUICK, "head_seconds": 5.0})
    async with egress(open_tmp, f"mirror.test:{world.tls}", visits=visits, limits=limits) as way_out:
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await tls_through(way_out, f"mirror.test:{world.tls}", "mirror.test")
        await soon(lambda: len(visits) == 2)
    assert visits[1].why == "too slow"


async def test_a_tunnel_without_tls_is_not_waited_for(open_tmp, world, visits):
    async with egress(open_tmp, f"mirror.test:{world.tls}", visits=visits, limits=EgressLimits(**QUICK)) as way_out:
        _, reader, writer = await tunnel(way_out, f"mirror.test:{world.tls}")
        assert await reader.read() == b""
        writer.close()
        await soon(lambda: len(visits) == 2)
    assert visits[1].why == "too slow"


async def test_no_more_leaves_than_the_cap_on_uploads_and_then_nothing(open_tmp, world, visits):
    limits = EgressLimits(upload=100_000)
    url, host = f"http://mirror.test:{world.plain}/", f"mirror.test:{world.plain}"
    secret = f"POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"s" * 1_000_000
    async with egress(open_tmp, host, visits=visits, limits=limits) as way_out:
        await say(way_out, secret)
        assert (await say(way_out, get(url, host))).startswith(b"HTTP/1.1 403")
    ended = next(visit for visit in visits if visit.allowed and visit.ended)
    assert "network.upload_mib" in ended.why
    assert ended.sent <= 100_000
    assert "network.upload_mib" in visits[-1].why
    assert not world.requests


async def test_no_more_comes_in_than_the_cap_on_downloads(open_tmp, visits):
    async with World(b"x" * 3_000_000 + b"hello from outside\n") as world:
        host = f"mirror.test:{world.plain}"
        async with egress(open_tmp, host, visits=visits, limits=EgressLimits(download=1_000_000)) as way_out:
            answer = await say(way_out, get(f"http://{host}/", host))
    assert len(answer) <= 1_000_000
    assert "network.download_mib" in visits[1].why


async def test_a_flood_of_connections_is_turned_away_and_the_others_go_on(open_tmp, world):
    host = f"mirror.test:{world.plain}"
    async with egress(open_tmp, host, limits=EgressLimits(connections=4)) as way_out:
        idle = [await connect(way_out) for _ in range(3)]
        await asyncio.sleep(0)
        held = [await connect(way_out) for _ in range(20)]
        answers = [await asyncio.wait_for(reader.read(12), 10) for reader, _ in held[1:]]
        assert set(answers) == {b"HTTP/1.1 503"}
        for _, writer in (*idle, held[0]):
            writer.close()
        await soon(lambda: len(way_out._handlers) == 0)
        assert (await say(way_out, get(f"http://{host}/", host))).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()


async def test_a_log_that_fails_lets_nothing_out(open_tmp, world, caplog):
    def fail(visit: Visit) -> None:
        raise RuntimeError("the journal is gone")

    host = f"mirror.test:{world.plain}"
    way_out = Egress(
        allow(host), folder=open_tmp, user=box_user(None), log=fail, resolve=Names(mirror_test=["127.0.0.1"])
    )
    async with way_out:
        assert await say(way_out, get(f"http://{host}/", host)) == b""
    assert world.connections == 0
    assert "the journal is gone" in caplog.text


async def test_a_connection_that_is_open_at_the_end_is_no_fault_and_one_that_lasts_too_long_is(open_tmp, world, visits):
    world.hang = True
    host, limits = f"mirror.test:{world.plain}", EgressLimits(total_seconds=0.3)
    async with egress(open_tmp, host, visits=visits, limits=limits) as way_out:
        assert await say(way_out, get(f"http://{host}/", host)) == b""
        await soon(lambda: len(visits) == 2)
    assert visits[1].why == "it was open for more than 0.3 s"
    async with egress(open_tmp, host, visits=visits) as way_out:
        _, writer = await connect(way_out)
        writer.write(get(f"http://{host}/", host))
        await soon(lambda: len(world.requests) == 2)
    assert visits[3].why == ""
    assert visits[3].sent > 0
    writer.close()


# The socket


async def test_the_socket_is_closed_to_everyone_else_and_gone_afterwards(open_tmp, world):
    async with egress(open_tmp, "mirror.test") as way_out:
        folder = way_out.mount.socket.parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert way_out.mount.socket.stat().st_mode & 0o777 == 0o600
        assert way_out.mount.socket.stat().st_uid == box_user(None).uid
        reader, writer = await connect(way_out)
    assert not folder.exists()
    assert await reader.read() == b""
    writer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_of_the_machine_is_not_served(open_tmp, world):
    async with egress(open_tmp, "mirror.test") as way_out:
        way_out.mount.socket.parent.chmod(0o755)
        way_out.mount.socket.chmod(0o666)
        script = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "s.sendall(b'CONNECT a.example:443 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); print(s.recv(99))"
        )
        argv = ["/usr/bin/python3", "-c", script, str(way_out.mount.socket)]
        user = box_user(None).uid - 1
        child = await asyncio.create_subprocess_exec(*argv, user=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, errors = await child.communicate()
    assert b"403" not in out
    assert out.strip() == b"b''" or b"ConnectionReset" in errors or b"BrokenPipe" in errors


async def test_a_long_path_is_no_hindrance(open_tmp, world):
    folder = open_tmp / ("d" * 120)
    folder.mkdir(mode=0o755)
    async with egress(folder, "mirror.test") as way_out:
        assert (await say(way_out, b"CONNECT a.example:1 HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 403")


async def test_where_no_socket_can_be_made_there_is_an_error_that_says_where(open_tmp):
    with pytest.raises(EgressError, match="missing/egress-"):
        async with egress(open_tmp / "missing"):
            pass


# From a box


CURL = "/usr/bin/python3 -c 'import urllib.request as u, sys; print(u.urlopen(sys.argv[1]).read().decode())'"


async def test_a_box_reaches_what_is_allowed_and_nothing_else(open_tmp, world, visits):
    host = f"mirror.test:{world.plain}"
    workspace = make_workspace(open_tmp)
    async with egress(open_tmp, host, visits=visits) as way_out:
        box = make_box(workspace).with_network(way_out.mount)
        good = await box.run(f"{CURL} http://{host}/")
        bad = await box.run(f"{CURL} http://other.test:{world.plain}/")
        direct = await box.run(f"https_proxy= http_proxy= {CURL} http://127.0.0.1:{world.plain}/")
        routes = await box.run("tail -n +2 /proc/net/route; ls -A /run")
    assert "hello from outside" in good.output
    assert "HTTP Error 403: Forbidden (Nightcrew: other.test" in bad.output
    assert direct.exit_code != 0
    assert routes.output.split() == ["egress"]
    assert [visit.host for visit in visits if not visit.allowed] == ["other.test"]


async def test_a_box_speaks_tls_through_it_with_the_machine_s_own_tools(open_tmp, world):
    host = f"mirror.test:{world.tls}"
    workspace = make_workspace(open_tmp)
    (workspace / "ca.pem").write_bytes(CERTIFICATE.read_bytes())
    async with egress(open_tmp, host, env={"SSL_CERT_FILE": "/workspace/ca.pem"}) as way_out:
        box = make_box(workspace).with_network(way_out.mount)
        result = await box.run(f"{CURL} https://{host}/")
    assert "hello from outside" in result.output


async def test_a_box_without_it_has_neither_the_socket_nor_the_variables(open_tmp, world, visits):
    workspace = make_workspace(open_tmp)
    async with egress(open_tmp, f"mirror.test:{world.plain}", visits=visits) as way_out:
        box = make_box(workspace)
        tried = await box.run(
            f"ls {way_out.mount.socket}; ls -A /run; env | grep -i -E 'proxy|ssl|pip'; cat /proc/net/unix | wc -l;"
            "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 3128))'"
        )
        twice = await box.with_network(way_out.mount).with_network(None).run("ls -A /run; env | grep -c -i proxy")
    assert "Connection refused" in tried.output
    assert "No such file" in tried.output
    assert "roxy=" not in tried.output
    assert twice.output.split() == ["0"]
    assert not visits


async def test_a_command_with_a_way_out_is_still_itself(open_tmp, world):
    workspace = make_workspace(open_tmp)
    async with egress(open_tmp) as way_out:
        box = make_box(workspace).with_network(way_out.mount)
        assert (await box.run("exit 7")).exit_code == 7
        assert (await box.run("kill -TERM $$")).ended == "signal"
        assert (await box.capture(["cat"], stdin=b"data")).stdout == b"data"
        assert (await box.run(["nonexistent-program"])).exit_code == 127
        # What it inherits: no ignored signals of Python's, no descriptors, no child that it would wait for.
        children = "read -r children < /proc/$$/task/$$/children; echo $children"
        state = f"grep SigIgn /proc/self/status; ls /proc/self/fd | wc -l; {children}"
        plain, with_it = await make_box(workspace).run(state), await box.run(state)
        assert with_it.output == plain.output


async def test_the_bridge_dies_with_its_box(open_tmp, world, visits):
    world.hang = True
    workspace = make_workspace(open_tmp)
    host = f"mirror.test:{world.plain}"
    async with egress(open_tmp, host, visits=visits) as way_out:
        box = make_box(workspace).with_network(way_out.mount)
        result = await box.run(
            f"({CURL} http://{host}/ &) ; while ! grep -q 0C38 /proc/net/tcp; do :; done", seconds=20
        )
        assert result.exit_code == 0
        await soon(lambda: not way_out._handlers)


async def test_many_connections_at_once_come_through_the_bridge_whole(open_tmp):
    async with World(os.urandom(300_000) + b"\n") as world:
        host = f"mirror.test:{world.plain}"
        script = f"""
import concurrent.futures, hashlib, urllib.request as u
def one(n): return hashlib.sha256(u.urlopen('http://{host}/').read()).hexdigest()
with concurrent.futures.ThreadPoolExecutor(16) as pool: print(*set(pool.map(one, range(48))))
"""
        async with egress(open_tmp, host) as way_out:
            box = make_box(make_workspace(open_tmp)).with_network(way_out.mount)
            result = await box.run(["/usr/bin/python3", "-c", script])
    assert result.output.split() == [hashlib.sha256(world.body).hexdigest()]


# Behind an operator's own proxy


class UpstreamProxy:
    """An operator's proxy that leads every name to the world's port, and keeps what it was asked."""

    def __init__(self, port: int, status: str = "200 OK") -> None:
        self.asked: list[bytes] = []
        self._port = port
        self._status = status

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        if not self.asked[-1].startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            writer.close()
            return
        writer.write(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
        there, out = await asyncio.open_connection("127.0.0.1", self._port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
            target.close()

        await asyncio.gather(pump(reader, out), pump(there, writer))


async def test_through_an_operators_proxy_names_are_left_to_it_and_the_list_still_counts(open_tmp, world, visits):
    proxy, names = UpstreamProxy(world.tls), Names()
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        upstream = parse_upstream(f"http://me:pass%20word@127.0.0.1:{port}")
        async with egress(
            open_tmp, "mirror.test", "10.0.0.1", names=names, visits=visits, upstream=upstream, private=()
        ) as way_out:
            assert world.body in await tls_through(way_out, "mirror.test:443", "mirror.test")
            assert (await say(way_out, get("http://mirror.test/x"))).endswith(b"ok")
            for other in ("other.test:443", "10.0.0.1:443"):
                assert (await say(way_out, f"CONNECT {other} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).startswith(
                    b"HTTP/1.1 403"
                )
    assert names.asked == []
    connect_head, plain_head = proxy.asked
    assert connect_head.startswith(b"CONNECT mirror.test:443 HTTP/1.1\r\n")
    assert plain_head.startswith(b"GET http://mirror.test/x HTTP/1.1\r\n")
    assert all(b"roxy-Authorization: Basic bWU6cGFzcyB3b3Jk" in head for head in proxy.asked)
    assert {visit.address for visit in visits if visit.allowed} == {"upstream"}


async def test_what_an_operators_proxy_refuses_is_a_502_with_its_words(open_tmp, world, visits):
    proxy = UpstreamProxy(world.tls, "407 Who are you")
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
        upstream = Upstream("127.0.0.1", server.sockets[0].getsockname()[1])
        async with egress(open_tmp, "mirror.test", visits=visits, upstream=upstream) as way_out:
            answer = await say(way_out, b"CONNECT mirror.test:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 502")
    assert visits[1].why == "the upstream proxy refused: 407 Who are you"


@pytest.mark.parametrize("url", ["https://a.example:1", "http://", "socks5://a.example", "http://a.example/x"])
def test_what_is_no_proxy_s_address_is_refused(url):
    with pytest.raises(ValueError, match="http://host:port"):
        parse_upstream(url)


def test_a_proxys_password_is_not_shown():
    assert "Basic" not in repr(parse_upstream("http://me:secret@a.example:1"))
    assert json.dumps(parse_upstream("a.example:1").port) == "1"
