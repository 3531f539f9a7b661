"""Looking for keys: in files, environments and memory, and with the agents that hold them."""

from __future__ import annotations

from security.attack import Attack, Deed, Service, says
from security.deeds import Python, Shell
from security.world import PERSON

_FILES = {
    "ssh-key": "~/.ssh/id_ed25519",
    "own-configuration": "~/.config/nightcrew/config.toml",
    "own-key-file": "~/.config/nightcrew/devstral.key",
    "journal": "~/.local/share/nightcrew/journal.sqlite",
    "another-tasks-report": "~/.local/share/nightcrew/outbox/other.report.md",
    "another-tasks-clone": "/var/lib/nightcrew/workspaces/other-task/clone/secret",
    "netrc": "~/.netrc",
    "git-credentials": "~/.git-credentials",
    "git-configuration": "~/.gitconfig",
    "github-token": "~/.config/gh/hosts.yml",
    "npm-token": "~/.npmrc",
    "pypi-token": "~/.pypirc",
    "pip-index": "~/.config/pip/pip.conf",
    "aws-key": "~/.aws/credentials",
    "docker-login": "~/.docker/config.json",
    "kube-token": "~/.kube/config",
    "service-account-token": "/run/secrets/kubernetes.io/serviceaccount/token",
    "systemd-credential": "/run/credentials/nightcrew.service/key",
    "gpg-key": "~/.gnupg/private-keys-v1.d/key",
    "browser-logins": "~/.mozilla/firefox/x.default/logins.json",
    "shell-history": "~/.bash_history",
}
_AGENTS = {
    "ssh-agent": f"/run/user/{PERSON}/ssh-agent",
    "gpg-agent": f"/run/user/{PERSON}/gnupg/S.gpg-agent",
    "session-bus": f"/run/user/{PERSON}/bus",
    "system-bus": "/run/dbus/system_bus_socket",
    "docker-socket": "/run/docker.sock",
    "own-door": "/home/person/.local/share/nightcrew/door.sock",
}
_MEMORY = """
import re
for pid in others():
    try: regions = open(f"/proc/{pid}/maps").read().splitlines()
    except OSError: continue
    for region in regions:
        first, last = (int(each, 16) for each in region.split()[0].split("-"))
        if " rw-p " not in region or last - first > 1 << 28: continue
        found = re.search(rb"the-canary-[a-z]{5}", look(pid, first, last - first))
        if found: sys.exit(found[0].decode())
"""
_BY_FILE = """
def look(pid, start, size):
    try:
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            memory.seek(start)
            return memory.read(size)
    except OSError: return b""
"""
_BY_CALL = """
def look(pid, start, size):
    here = ctypes.create_string_buffer(size)
    vectors = [(ctypes.c_size_t * 2)(ctypes.addressof(here), size), (ctypes.c_size_t * 2)(start, size)]
    libc.process_vm_readv(pid, vectors[0], 1, vectors[1], 1, 0)
    return here.raw
"""


def _attack(name: str, deed: Deed, service: Service = "person") -> Attack:
    return Attack(name, "secrets", deed, says(), service)


ATTACKS = (
    *(_attack(name, Shell(f"cat {path.replace('~', '/home/person')}")) for name, path in _FILES.items()),
    *(
        _attack(name, Python(f"s = socket.socket(socket.AF_UNIX); s.connect({path!r}); print(s.recv(999))"))
        for name, path in _AGENTS.items()
    ),
    _attack("environment", Shell("env")),
    _attack("environment-of-others", Shell("cat /proc/[0-9]*/environ | tr '\\0' '\\n'")),
    _attack("environment-of-the-parent", Shell("cat /proc/$PPID/environ")),
    _attack("home-by-name", Shell("cat ~person/.ssh/id_ed25519")),
    _attack("everything-that-looks-like-a-key", Shell("grep -rs 'PRIVATE KEY' /home/person /outside -A 1")),
    _attack("memory-of-the-service-by-its-file", Python(_BY_FILE + _MEMORY)),
    _attack("memory-of-the-service-by-a-call", Python(_BY_CALL + _MEMORY)),
    _attack("shadow", Shell("cat /etc/shadow"), "root"),
    _attack("roots-ssh-key", Shell("cat /root/.ssh/id_ed25519"), "root"),
    _attack("roots-environment", Shell("cat /proc/[0-9]*/environ | tr '\\0' '\\n'"), "root"),
    _attack("roots-memory", Python(_BY_FILE + _MEMORY), "root"),
)
