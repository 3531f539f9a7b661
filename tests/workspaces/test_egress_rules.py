"""Which hosts and addresses a way out may lead to."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.outside import allow
from nightcrew_workspaces.egress_rules import HostRule, normal_host, parse_rule, split_authority, why_refused
from nightcrew_workspaces.egress_tls import NotTls, server_name

TRICKY = [
    *("127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "169.254.0.1", "224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1"),
    *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "192.88.99.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:808:808::1", "2001:0:1::1"),
]


@pytest.mark.parametrize("text", TRICKY)
def test_an_address_inside_or_in_disguise_is_refused(text):
    assert why_refused(ipaddress.ip_address(text)) is not None


@pytest.mark.parametrize("text", ["8.8.8.8", "151.101.0.223", "2606:4700::1", "2a04:4e42::223"])
def test_an_address_of_the_internet_is_let_through(text):
    assert why_refused(ipaddress.ip_address(text)) is None


@given(st.ip_addresses(v=4))
def test_no_disguise_of_an_ipv4_address_in_ipv6_is_let_through(address):
    number = int(address)
    for prefix, shift in (("::", 0), ("::ffff:0:0", 0), ("64:ff9b::", 0), ("::ffff:0:0:0", 0), ("2002::", 80)):
        disguised = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number << shift)
        assert why_refused(disguised) is not None


@given(st.ip_addresses())
def test_what_is_not_global_is_never_let_through_unless_the_operator_opened_it(address):
    if why_refused(address) is None:
        assert address.is_global
        assert not (address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified)


def test_an_operator_opens_a_private_range():
    mirror, private = ipaddress.ip_address("10.1.2.3"), ipaddress.ip_network("10.1.0.0/16")
    assert why_refused(mirror) is not None
    assert why_refused(mirror, [private]) is None
    assert why_refused(ipaddress.ip_address("10.2.0.1"), [private]) is not None


@pytest.mark.parametrize("text", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1"])
def test_a_range_that_covers_everything_still_leaves_the_special_ones_closed(text):
    assert why_refused(ipaddress.ip_address(text), [ipaddress.ip_network("0.0.0.0/0")]) is not None


def test_the_loopback_and_the_metadata_are_opened_only_by_a_range_of_their_own():
    assert why_refused(ipaddress.ip_address("127.0.0.1"), [ipaddress.ip_network("127.0.0.1/32")]) is None
    assert why_refused(ipaddress.ip_address("169.254.169.254"), [ipaddress.ip_network("169.254.169.254/32")]) is None
    assert why_refused(ipaddress.ip_address("::1"), [ipaddress.ip_network("::1/128")]) is None


def test_multicast_is_opened_by_nothing():
    assert why_refused(ipaddress.ip_address("224.0.0.1"), [ipaddress.ip_network("224.0.0.0/4")]) is not None


def test_a_host_without_a_port_means_the_two_of_the_web():
    rules = allow("files.example.org")
    assert [port for port in (22, 80, 443, 8443) if rules.allows("files.example.org", port)] == [80, 443]
    assert not rules.allows("example.org", 443)
    assert not rules.allows("evil-files.example.org", 443)
    assert not rules.allows("files.example.org.evil.example", 443)


def test_a_wildcard_means_what_is_below_and_not_the_domain_itself():
    rules = allow("*.example.org:8443")
    assert rules.allows("a.b.example.org", 8443)
    assert not rules.allows("example.org", 8443)
    assert not rules.allows("badexample.org", 8443)
    assert not rules.allows("a.example.org", 443)


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.org", "*.1.2.3.4", "a..b", "-a.example", "a b", "http://a.example", "a.example/x", "a.example:0"),
        *("a.example:99999", "a.example:x", "a.example:", "müller.example", "127.1", "0x7f.1", "2130706433"),
        *("017700000001", "a\n.example", "user@a.example", "[::1", "[::1]x", "::1", "a" * 64 + ".example"),
        ".".join(["a" * 60] * 5),
    ],
)
def test_what_is_no_host_is_no_rule(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_rule(text)


def test_names_are_compared_in_one_form():
    assert normal_host("Files.Example.ORG.") == "files.example.org"
    assert split_authority("[2606:4700:0::1]:443", None) == ("2606:4700::1", 443)
    assert split_authority("A.example", 80) == ("a.example", 80)
    assert parse_rule("[::1]:8080") == HostRule("::1", (8080,))


@given(st.text())
def test_any_text_is_a_host_or_a_value_error(text):
    for read in (normal_host, parse_rule, lambda text: split_authority(text, 80)):
        with contextlib.suppress(ValueError):
            read(text)


def test_a_task_takes_part_of_what_the_machine_allows_and_never_more():
    machine = allow("*.example.org", "mirror.lan:8080", "files.example.net")
    assert machine.narrowed("mirror.lan") == (HostRule("mirror.lan", (8080,)),)
    assert machine.narrowed("a.example.org") == (HostRule("a.example.org"),)
    assert machine.narrowed("*.a.example.org:443") == (HostRule("*.a.example.org", (443,)),)
    assert machine.narrowed("files.example.net:443") == (HostRule("files.example.net", (443,)),)
    for more in ("example.org", "*.example.net", "mirror.lan:443", "other.example", "a.example.org:22"):
        assert machine.narrowed(more) == ()


# The client hello


def hello(name: str | None, **settings: object) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for key, value in settings.items():
        setattr(context, key, value)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same handshake message in smaller records."""
    message = data[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(data[:3] + len(part).to_bytes(2, "big") + part for part in parts)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_server_name_of_a_real_client_is_read(version):
    data = hello("files.example.org", minimum_version=version, maximum_version=version)
    assert server_name(data) == "files.example.org"
    assert server_name(in_records(data, 1)) == "files.example.org"
    assert server_name(in_records(data, 100) + b"more") == "files.example.org"


def test_a_client_hello_is_waited_for_to_its_last_byte():
    data = in_records(hello("files.example.org"), 200)
    assert all(server_name(data[:size]) is None for size in range(len(data)))


def test_a_client_that_names_no_server_has_an_empty_name():
    assert server_name(hello(None)) == ""


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x80\x2e\x01", b"\x16\x03\x01\x00\x00"]
)
def test_what_is_not_tls_is_not_waited_for(data):
    with pytest.raises(NotTls):
        server_name(data)


def with_extension(data: bytes, kind: int, value: bytes) -> bytes:
    """A client hello with one more extension at its end."""
    body = bytearray(data[9:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    added = kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
    body[at : at + 2] = (int.from_bytes(body[at : at + 2], "big") + len(added)).to_bytes(2, "big")
    body += added
    message = b"\x01" + len(body).to_bytes(3, "big") + bytes(body)
    return data[:3] + len(message).to_bytes(2, "big") + message


def test_a_hidden_or_a_second_server_name_is_refused():
    data = hello("files.example.org")
    other = b"evil.example"
    name = (len(other) + 3).to_bytes(2, "big") + b"\0" + len(other).to_bytes(2, "big") + other
    assert server_name(with_extension(data, 0x1234, b"x")) == "files.example.org"
    with pytest.raises(NotTls, match="ECH"):
        server_name(with_extension(data, 0xFE0D, b"\0" * 40))
    with pytest.raises(NotTls, match="several"):
        server_name(with_extension(data, 0, name))


@given(st.binary(max_size=300), st.integers(0, 40))
def test_any_bytes_are_a_name_a_wait_or_not_tls(data, cut):
    real = hello("files.example.org")
    for tried in (data, real[:cut] + data, real[:9] + data, in_records(real, 50)[: cut * 5] + data):
        with contextlib.suppress(NotTls):
            server_name(tried)
