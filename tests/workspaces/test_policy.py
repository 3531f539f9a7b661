"""What bubblewrap is told, as data; who boxes run as."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nightcrew_workspaces.egress_mount import EgressMount
from nightcrew_workspaces.errors import BoxUnavailable
from nightcrew_workspaces.policy import (
    BoxPolicy,
    BoxUser,
    Limits,
    Mount,
    box_environment,
    box_files,
    bwrap_arguments,
    inner_command,
    resource_limits,
)
from nightcrew_workspaces.toolchains import cache_environment
from nightcrew_workspaces.user import box_user, unreachable

AGENT = BoxUser("someone", 4242, 4242, switch=True)
WORKSPACE = Mount(Path("/srv/task/clone"), "/workspace", writable=True)


def policy(**changes) -> BoxPolicy:
    return BoxPolicy(**{"user": AGENT, "mounts": (WORKSPACE,), **changes})


def arguments(of: BoxPolicy) -> list[str]:
    fds = {path: 10 + index for index, path in enumerate(box_files(of))}
    return bwrap_arguments(of, seccomp_fd=8, status_fd=9, file_fds=fds)


SNAPSHOT = """\
--unshare-user --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --disable-userns
--die-with-parent --new-session --cap-drop ALL --uid 1000 --gid 1000 --clearenv
--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/sbin /sbin --symlink usr/lib /lib --symlink usr/lib64 /lib64
--ro-bind-try /etc/alternatives /etc/alternatives --ro-bind-try /etc/ca-certificates /etc/ca-certificates
--ro-bind-try /etc/fonts /etc/fonts --ro-bind-try /etc/host.conf /etc/host.conf
--ro-bind-try /etc/ld.so.cache /etc/ld.so.cache --ro-bind-try /etc/ld.so.conf /etc/ld.so.conf
--ro-bind-try /etc/ld.so.conf.d /etc/ld.so.conf.d --ro-bind-try /etc/localtime /etc/localtime
--ro-bind-try /etc/maven /etc/maven --ro-bind-try /etc/mime.types /etc/mime.types
--ro-bind-try /etc/os-release /etc/os-release --ro-bind-try /etc/perl /etc/perl
--ro-bind-try /etc/protocols /etc/protocols --ro-bind-try /etc/services /etc/services
--ro-bind-try /etc/ssl/certs /etc/ssl/certs --ro-bind-try /etc/ssl/openssl.cnf /etc/ssl/openssl.cnf
--ro-bind-try /etc/java-11-openjdk /etc/java-11-openjdk --ro-bind-try /etc/java-17-openjdk /etc/java-17-openjdk
--ro-bind-try /etc/java-21-openjdk /etc/java-21-openjdk --ro-bind-try /etc/java-25-openjdk /etc/java-25-openjdk
--perms 0444 --file 10 /etc/gitconfig --perms 0444 --file 11 /etc/group --perms 0444 --file 12 /etc/hosts
--perms 0444 --file 13 /etc/nsswitch.conf --perms 0444 --file 14 /etc/passwd --perms 0444 --file 15 /etc/resolv.conf
--perms 0444 --file 16 /opt/nightcrew/tool.py
--proc /proc --dev /dev --size 1073741824 --perms 1777 --tmpfs /tmp --size 67108864 --perms 1777 --tmpfs /dev/shm
--size 67108864 --perms 0700 --tmpfs /home/agent --dir /run --symlink /tmp /var/tmp
--ro-bind /srv/toolchain /srv/toolchain --bind /srv/task/clone /workspace --ro-bind /srv/task/depot.git /depot
--setenv GIT_PAGER cat --setenv GIT_TERMINAL_PROMPT 0 --setenv HOME /home/agent --setenv LANG C.UTF-8
--setenv LOGNAME agent --setenv PAGER cat
--setenv PATH /srv/toolchain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
--setenv PYTHONDONTWRITEBYTECODE 1 --setenv SEED 7 --setenv TERM dumb --setenv USER agent
--remount-ro /dev --remount-ro / --chdir /workspace --seccomp 8 --json-status-fd 9
"""


def test_the_whole_policy_is_told_to_bubblewrap():
    told = arguments(
        policy(
            mounts=(WORKSPACE, Mount(Path("/srv/task/depot.git"), "/depot")),
            read_only=(Path("/srv/toolchain"), Path("/usr/lib/somewhere")),
            path=("/srv/toolchain/bin",),
            env={"SEED": "7"},
            files={"/opt/nightcrew/tool.py": b"pass"},
        )
    )
    assert " ".join(told) == " ".join(SNAPSHOT.split())


def test_a_box_that_joins_a_network_makes_none():
    assert "--unshare-net" in arguments(policy())
    assert [each for each in arguments(policy()) if each != "--unshare-net"] == arguments(policy(joins=4711))


def test_a_way_out_is_a_socket_a_bridge_and_the_variables_that_tell_tools():
    way = EgressMount(Path("/srv/task/egress-1/proxy"), ca_bundle="/etc/ssl/certs/all.pem", env={"PIP_INDEX_URL": "x"})
    of = policy(network=way, env={"NO_PROXY": "mine"})
    told = " ".join(arguments(of))
    assert "--ro-bind /srv/task/egress-1/proxy /run/egress" in told
    assert "--unshare-net" in told
    told_tools = {key: value for key, value in box_environment(of).items() if key not in box_environment(policy())}
    proxied = [name for name, value in told_tools.items() if value == "http://127.0.0.1:3128"]
    assert sorted(proxied) == [
        *("ALL_PROXY", "CARGO_HTTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "PIP_PROXY", "all_proxy", "http_proxy"),
        *("https_proxy", "npm_config_https_proxy", "npm_config_proxy"),
    ]
    assert told_tools["PIP_CERT"] == told_tools["NODE_EXTRA_CA_CERTS"] == "/etc/ssl/certs/all.pem"
    assert told_tools["PIP_INDEX_URL"] == "x"
    assert told_tools["NO_PROXY"] == "mine"
    assert way.command(["pip", "--version"])[-2:] == ["pip", "--version"]
    with pytest.raises(ValueError, match="not an absolute path"):
        EgressMount(Path("proxy"))


def test_a_home_that_stays_takes_the_place_of_the_one_in_memory():
    told = " ".join(arguments(policy(home=Path("/srv/task/home"))))
    assert told.index("--tmpfs /home/agent") < told.index("--bind /srv/task/home /home/agent")


def test_limits_are_set_inside_where_they_count_for_one_box():
    limits = Limits(processes=64, file_mib=3, open_files=99)
    told = inner_command(resource_limits(limits), ["make", "test"])
    assert told[:6] == ["/usr/bin/prlimit", "--nproc=64", "--fsize=3145728", "--nofile=99", "--core=0", "--"]
    assert told[6:8] == ["/bin/sh", "-c"]
    assert told[9:] == ["nightcrew-box", "make", "test"]


def test_nothing_of_the_services_environment_is_in_a_box(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    assert "SECRET_KEY" not in box_environment(policy())


def test_a_policys_own_environment_wins_over_the_standard_one():
    assert box_environment(policy(env={"LANG": "de_DE.UTF-8"}))["LANG"] == "de_DE.UTF-8"


@pytest.mark.parametrize(
    "hostile",
    [
        {"env": {"A": "1\0--bind\0/\0/host"}},
        {"env": {"A\0--bind\0/\0/host\0--setenv\0B": "1"}},
        {"path": ("/x\0--share-net",)},
        {"chdir": "/workspace\0--bind\0/\0/host"},
        {"mounts": (Mount(Path("/srv/a\0b"), "/workspace"),)},
    ],
)
def test_a_nul_character_cannot_smuggle_in_an_option(hostile):
    with pytest.raises(ValueError, match="NUL character"):
        arguments(policy(**hostile))


@pytest.mark.parametrize(
    "target", ["/", "/etc/x", "/usr", "/proc/1", "/home/agent", "workspace", "/a/../etc", "//x", "/opt/nightcrew"]
)
def test_a_mount_cannot_cover_the_system(target):
    with pytest.raises(ValueError, match="mount target"):
        Mount(Path("/srv/x"), target)


def test_a_mounts_source_is_an_absolute_path():
    with pytest.raises(ValueError, match="not an absolute path"):
        Mount(Path("clone"), "/workspace")


@pytest.mark.parametrize("path", ["/", "/run", "/var/run", "/home", "/root/", "/tmp", "/proc", "relative", "/srv/../"])
def test_whole_trees_with_other_peoples_sockets_and_secrets_are_not_shown(path):
    with pytest.raises(ValueError, match="read-only path"):
        policy(read_only=(Path(path),))


@pytest.mark.parametrize("target", ["/etc/passwd", "/workspace/x", "opt/x", "/opt/../etc/x"])
def test_made_files_lie_below_opt(target):
    with pytest.raises(ValueError, match="below /opt"):
        policy(files={target: b""})


def test_a_variables_name_is_a_name():
    with pytest.raises(ValueError, match="not a name"):
        policy(env={"A=B": "1"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_as_root_boxes_have_an_unprivileged_user():
    user = box_user(None)
    assert user.name in {"nightcrew", "nobody"}
    assert user.switch
    assert user.uid > 0
    assert user.gid > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_boxes_never_run_as_root_whatever_is_configured():
    with pytest.raises(BoxUnavailable, match=r"which is root.*useradd"):
        box_user("root")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_an_account_that_does_not_exist_is_named_with_what_to_do():
    with pytest.raises(BoxUnavailable, match=r"no account no-such-account .*useradd"):
        box_user("no-such-account")


def test_the_directory_that_keeps_the_boxes_user_out_is_found(open_tmp):
    inside = open_tmp / "closed" / "deep" / "workspace"
    inside.mkdir(parents=True)
    assert unreachable(inside, AGENT) is None
    (open_tmp / "closed").chmod(0o700)
    assert unreachable(inside, AGENT) == open_tmp / "closed"
    (open_tmp / "closed").chmod(0o711)
    assert unreachable(inside, AGENT) is None
    assert unreachable(inside / "missing", AGENT) == inside / "missing"


def test_maven_is_told_of_its_cache_and_of_the_way_out():
    options = box_environment(policy(network=EgressMount(Path("/srv/e/proxy")), env=cache_environment()))["MAVEN_OPTS"]
    assert "-Dhttps.proxyHost=127.0.0.1" in options and "-Dmaven.repo.local=/cache/m2" in options
    assert box_environment(policy(env=cache_environment()))["MAVEN_OPTS"] == "-Dmaven.repo.local=/cache/m2"
