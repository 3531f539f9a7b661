"""Asking the kernel for what only its administrator needs. A call that would do harm is made with arguments that the
kernel refuses after it looked for the permission: that refusal is what fires."""

from __future__ import annotations

import platform

from security.attack import Attack, Deed, Service, says
from security.deeds import Python, Shell

_USER: dict[str, str] = {
    "new-user-namespace": "reach(NUMBER['unshare'], 0x10000000)",
    "new-namespaces-by-clone": "pid = reach(NUMBER['clone'], 0x10000011, 0, 0, 0, 0)\nif pid == 0: os._exit(0)",
    "new-namespaces-by-clone3": (
        "words = (ctypes.c_ulonglong * 8)(0x10000000, 0, 0, 0, 17)\n"
        "pid = reach(435, ctypes.byref(words), 64)\nif pid == 0: os._exit(0)"
    ),
    "mount-in-a-new-namespace": (
        "libc.unshare(0x10020000)\nif libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: print('REACHED')"
    ),
    "trace-me": "reach(NUMBER['ptrace'], 0, 0, 0, 0)",
    "trace-a-child": (
        "if (pid := os.fork()) == 0: time.sleep(5)\nreach(NUMBER['ptrace'], 16, pid, 0, 0)\nos.kill(pid, 9)"
    ),
    "io-uring": "reach(425, 4, ctypes.create_string_buffer(120))",
    "keyring": "reach(NUMBER['add_key'], b'user', b'nightcrew', b'x', 1, -2)",
    "keyring-of-the-session": "reach(NUMBER['keyctl'], 0, -3, 1)",
    "userfaultfd": "reach(NUMBER['userfaultfd'], 1)",
    "file-handles": (
        "handle, mount = ctypes.create_string_buffer(struct.pack('Ii', 120, 0), 128), ctypes.c_int()\n"
        "reach(NUMBER['name_to_handle_at'], -100, b'/dev/shm', handle, ctypes.byref(mount), 0)"
    ),
    "file-system-changes": "reach(NUMBER['fanotify_init'], 0x200, 0)",
    "time-of-the-kernel": "reach(NUMBER['adjtimex'], ctypes.create_string_buffer(208))",
}
_ROOT: dict[str, str] = {
    "mount": "if libc.mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0: print('REACHED')",
    "bind-mount": "if libc.mount(b'/outside', b'/workspace', None, 4096, None) == 0: print('REACHED')",
    "unmount": "libc.umount2(b'/tmp', 2) == 0 and print('REACHED')",
    "new-mount-interface": "fd = reach(430, b'tmpfs', 0)",
    "open-tree": "reach(428, -100, b'/', 0x80001)",
    "pivot-root": "reach(NUMBER['pivot_root'], b'/nowhere', b'/nowhere', past={'ENOENT'})",
    "chroot": "reach(NUMBER['chroot'], b'/outside' if os.path.exists('/outside') else b'/tmp')",
    "enter-a-namespace": "reach(NUMBER['setns'], os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)",
    "open-by-handle": (
        "handle = ctypes.create_string_buffer(struct.pack('Ii', 8, 1) + bytes(8), 128)\n"
        "reach(NUMBER['open_by_handle_at'], os.open('/tmp', os.O_RDONLY), handle, 0, past={'ESTALE', 'EINVAL'})"
    ),
    "bpf": "reach(NUMBER['bpf'], 0, ctypes.create_string_buffer(struct.pack('4I', 2, 4, 4, 1), 128), 128)",
    "perf-events": (
        "event = ctypes.create_string_buffer(struct.pack('IIQ', 1, 112, 0), 112)\n"
        "reach(NUMBER['perf_event_open'], event, 0, -1, -1, 0)"
    ),
    "reboot": "reach(NUMBER['reboot'], 0, 0, 0, 0, past={'EINVAL'})",
    "swap-on": "reach(NUMBER['swapon'], b'/nowhere', 0, past={'ENOENT'})",
    "swap-off": "reach(NUMBER['swapoff'], b'/nowhere', past={'ENOENT'})",
    "accounting": "reach(NUMBER['acct'], b'/nowhere', past={'ENOENT'})",
    "quotas": "reach(NUMBER['quotactl'], 0x80000800, b'/nowhere', 0, 0, past={'ENOENT', 'ENOTBLK', 'ENODEV'})",
    "read-the-kernels-log": "text = ctypes.create_string_buffer(99)\nreach(NUMBER['syslog'], 3, text, 99)",
    "set-the-time": "reach(NUMBER['settimeofday'], 0, 0)",
    "set-a-clock": "reach(NUMBER['clock_settime'], 1, ctypes.create_string_buffer(16), past={'EINVAL'})",
    "set-the-host-name": "reach(NUMBER['sethostname'], b'mine', 4)",
    "hang-up": "reach(NUMBER['vhangup'])",
    "watch-all-files": "reach(NUMBER['fanotify_init'], 0, 0)",
    "device-node": (
        "os.mknod('/workspace/kmsg', 0o20600, os.makedev(1, 11))\n"
        "os.open('/workspace/kmsg', os.O_RDWR); print('REACHED')"
    ),
    "kernels-log-device": "os.open('/dev/kmsg', os.O_WRONLY); print('REACHED')",
    "loop-device": "os.open('/dev/loop-control', os.O_RDWR); print('REACHED')",
    "fuse": "os.open('/dev/fuse', os.O_RDWR); print('REACHED')",
    "capabilities-come-back": (
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print('REACHED' if int(status['CapEff'], 16) else 'NONE')"
    ),
    "become-root-by-setuid": "os.setuid(0); print('REACHED')",
    "lower-niceness": "os.setpriority(os.PRIO_PROCESS, 0, -5); print('REACHED')",
    "real-time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); print('REACHED')",
}
_NOT_EVERYWHERE: dict[str, str] = {
    "crypto-sockets": (
        "try: socket.socket(38, 5).bind(('hash', 'sha256')); print('REACHED')\n"
        "except OSError as error: print('UNAVAILABLE' if error.errno == errno.EAFNOSUPPORT else error)"
    ),
    "load-a-module": "reach(NUMBER['init_module'], b'x', 1, b'', past={'ENOEXEC', 'EINVAL', 'EFAULT'})",
    "unload-a-module": "reach(NUMBER['delete_module'], b'no-such-module', 0, past={'ENOENT'})",
    "kexec": "reach(NUMBER['kexec_load'], 0, 0, 0, 0)",
    "ports": "reach(NUMBER['iopl'], 0) == 0 and reach(NUMBER['ioperm'], 0x80, 1, 1)",
}
"""What some kernels are built without; then there is nothing to prove."""
_FILES: dict[str, str] = {
    "setting-of-the-kernel": "echo canary > /proc/sys/kernel/hostname && echo REACHED",
    "core-pattern": "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern && echo REACHED",
    "devices-in-sys": "ls -d /sys/class/net /sys/kernel && echo REACHED",
    "new-control-group": (
        "for each in /sys/fs/cgroup /sys/fs/cgroup/*; do\n"
        "  test -e $each/cgroup.procs && mkdir $each/canary-$$ && rmdir $each/canary-$$ && echo REACHED && break\ndone"
    ),
    "leave-the-control-group": (
        "for each in /sys/fs/cgroup /sys/fs/cgroup/*; do\n"
        "  test -e $each/cgroup.procs && test -w $each/cgroup.procs && echo REACHED && break\ndone"
    ),
    "mount-program": "mount -t tmpfs none /mnt && echo REACHED",
    "own-loader": "echo /workspace/evil.so > /etc/ld.so.preload && echo REACHED; rm -f /etc/ld.so.preload",
}
_32_BIT = """
# getpid by the 32-bit table: mov eax, 20; int 0x80; ret
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3")
entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print("REACHED" if entry() == os.getpid() else "NO", flush=True)
"""


def _attack(name: str, deed: Deed, service: Service) -> Attack:
    everywhere = name not in _NOT_EVERYWHERE
    return Attack(f"kernel-{name}", "kernel surface", deed, says("REACHED"), service, everywhere=everywhere)


ATTACKS = (
    *(_attack(name, Python(program), "person") for name, program in _USER.items()),
    *(_attack(name, Python(program), "root") for name, program in {**_ROOT, **_NOT_EVERYWHERE}.items()),
    *(_attack(name, Shell(script), "root") for name, script in _FILES.items()),
    *([_attack("calls-by-the-32-bit-table", Python(_32_BIT), "person")] if platform.machine() == "x86_64" else []),
)
