"""Leaving something behind that works later: for the person's next login, or for the next command."""

from __future__ import annotations

from security.attack import Attack, Canary, Deed, Service, changed, planted, says
from security.deeds import Python, Shell

_WRITTEN: dict[str, tuple[str, str]] = {
    "crontab": ("/var/spool/cron/crontabs/person", "echo '* * * * * evil' >"),
    "shell-start": ("/home/person/.bashrc", "echo evil >>"),
    "login": ("/home/person/.profile", "echo evil >>"),
    "authorized-key": ("/home/person/.ssh/authorized_keys", "echo evil >>"),
    "user-unit": (
        "/home/person/.config/systemd/user/evil.service",
        "mkdir -p /home/person/.config/systemd/user && echo evil >",
    ),
    "autostart": (
        "/home/person/.config/autostart/evil.desktop",
        "mkdir -p /home/person/.config/autostart && echo evil >",
    ),
    "global-git-configuration": ("/home/person/.gitconfig", "git config --global core.pager evil; echo '# evil' >>"),
    "program-in-the-path-of-the-home": (
        "/home/person/.local/bin/git",
        "mkdir -p /home/person/.local/bin && echo evil >",
    ),
    "pythons-user-site": (
        "/home/person/.local/lib/python3/site-packages/evil.pth",
        "mkdir -p /home/person/.local/lib/python3/site-packages && echo evil >",
    ),
    "own-configuration": ("/home/person/.config/nightcrew/config.toml", "echo '# evil' >>"),
    "another-task-file": (
        "/home/person/.local/share/nightcrew/inbox/evil.md",
        "mkdir -p /home/person/.local/share/nightcrew/inbox && echo evil >",
    ),
}
_ROOTS: dict[str, tuple[str, str]] = {
    "system-crontab": ("/etc/cron.d/evil", "mkdir -p /etc/cron.d && echo evil >"),
    "program": ("/usr/local/bin/tool", "echo evil >>"),
    "new-program": ("/usr/local/bin/git", "echo evil >"),
    "loader": ("/etc/ld.so.preload", "true >"),
    "system-unit": ("/etc/systemd/system/evil.service", "mkdir -p /etc/systemd/system && echo evil >"),
    "profile": ("/etc/profile.d/evil.sh", "echo evil >"),
    "account": ("/etc/passwd", "echo evil:x:0:0::/:/bin/sh >>"),
    "system-git-configuration": ("/etc/gitconfig", "echo '# evil' >>"),
    "roots-key": ("/root/.ssh/authorized_keys", "mkdir -p /root/.ssh && echo evil >>"),
}
_LATER: dict[str, tuple[str, str]] = {
    "tmp": ("echo STILL-HERE > /tmp/left", "cat /tmp/left"),
    "var-tmp": ("echo STILL-HERE > /var/tmp/left", "cat /var/tmp/left"),
    "shared-memory": ("echo STILL-HERE > /dev/shm/left", "cat /dev/shm/left"),
    "home": ("echo STILL-HERE > ~/left", "cat ~/left"),
    "start-of-the-next-shell": ("echo 'echo STILL-HERE' >> ~/.bashrc", "bash -ic true"),
    "next-git": ("git config --global alias.evil '!echo STILL-HERE'", "git evil"),
    "next-python": (
        'mkdir -p "$(/usr/bin/python3 -m site --user-site)" && '
        'echo \'print("STILL-HERE")\' > "$(/usr/bin/python3 -m site --user-site)/usercustomize.py"',
        "/usr/bin/python3 -c ''",
    ),
    "program-in-the-path": (
        "mkdir -p ~/bin; printf '#!/bin/sh\\necho STILL-HERE\\n' > ~/bin/ls; chmod +x ~/bin/ls",
        "PATH=~/bin:$PATH ls",
    ),
    "system-v-memory": (
        '/usr/bin/python3 -c "import ctypes; print(ctypes.CDLL(None).shmget(4242, 4096, 0o1600))"',
        "grep -q ' 4242 ' /proc/sysvipc/shm && echo STILL-HERE",
    ),
    "message-queue": (
        '/usr/bin/python3 -c "import ctypes; print(ctypes.CDLL(None).msgget(4242, 0o1600))"',
        "grep -q ' 4242 ' /proc/sysvipc/msg && echo STILL-HERE",
    ),
    "abstract-socket": (
        '/usr/bin/python3 -c "import os, socket, time; s = socket.socket(socket.AF_UNIX); '
        "s.bind('\\0left'); s.listen(); "
        'os.fork() or (os.setsid(), [os.close(fd) for fd in (0, 1, 2)], time.sleep(60))"',
        "grep -q @left /proc/net/unix && echo STILL-HERE",
    ),
    "listener": (
        "/usr/bin/python3 -c \"import os, socket, time; s = socket.socket(); s.bind(('127.0.0.1', 9999)); s.listen(); "
        'os.fork() or (os.setsid(), [os.close(fd) for fd in (0, 1, 2)], time.sleep(60))"',
        "exec 3<>/dev/tcp/127.0.0.1/9999 && echo STILL-HERE",
    ),
    "process": (
        "setsid sleep 4242 & until grep -lz '^4242' /proc/[0-9]*/cmdline; do :; done",
        "grep -lz '^4242' /proc/[0-9]*/cmdline && echo STILL-HERE",
    ),
}
_KEY = "reach(NUMBER['add_key'], b'user', b'left', b'STILL', 5, -4)"


def _attack(name: str, deed: Deed, canary: Canary, service: Service = "person") -> Attack:
    return Attack(f"persist-{name}", "persistence", deed, canary, service)


def _written(path: str, existing: bool) -> Canary:
    return changed(path, to="evil") if existing else planted(path)


_EXISTING = {
    *("shell-start", "login", "authorized-key", "global-git-configuration", "own-configuration"),
    *("program", "account", "system-git-configuration"),
}

ATTACKS = (
    *(
        _attack(name, Shell(f"{how} {path}"), _written(path, name in _EXISTING))
        for name, (path, how) in _WRITTEN.items()
    ),
    *(
        _attack(name, Shell(f"{how} {path}"), _written(path, name in _EXISTING), "root")
        for name, (path, how) in _ROOTS.items()
    ),
    *(
        _attack(f"until-the-next-command-{name}", Shell(then, before=before), says("STILL-HERE"))
        for name, (before, then) in _LATER.items()
    ),
    _attack("key-of-the-user", Python(_KEY), says("REACHED")),
)
