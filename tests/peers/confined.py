#!/usr/bin/python3
"""Runs a program under the restrictions of a systemd unit, as far as they can be had without systemd: system calls, address families,
no memory both writable and executable, no capabilities, no new privileges, and file systems that cannot be written to.

    confined.py UNIT WRITABLE-FOLDER PROGRAM [ARGUMENT...]
"""
import ctypes
import errno
import os
import re
import socket
import subprocess
import sys

import seccomp

unit, writable, program = sys.argv[1], sys.argv[2], sys.argv[3:]
settings = [line.strip().split("=", 1) for line in open(unit) if re.match(r"[A-Z]\w+=", line)]


def words(name):
    return [value.split() for key, value in settings if key == name]


def system_calls(name):
    """The names in a set of systemd's, and in the sets in it."""
    if not name.startswith("@"):
        return {name}
    lines = subprocess.check_output(["systemd-analyze", "syscall-filter", name], text=True).splitlines()[1:]
    found = (line.strip() for line in lines)
    return set().union(*(system_calls(line) for line in found if line and not line.startswith("#")))


# systemd.exec(5): the first list allows, and has @default added; later ones begin with ~ where they take away.
allowed = system_calls("@default")
for names in words("SystemCallFilter"):
    taken = names[0].startswith("~")
    listed = set().union(*(system_calls(name.lstrip("~")) for name in names))
    allowed = allowed - listed if taken else allowed | listed
allowed |= {"execve", "exit", "exit_group", "getrlimit", "rt_sigreturn", "sigreturn"}

libc = ctypes.CDLL(None, use_errno=True)


def call(function, *arguments):
    if getattr(libc, function)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


if dict(settings).get("ProtectSystem") == "strict":
    CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    call("mount", writable.encode(), writable.encode(), None, MS_BIND, None)
    call("mount", b"none", b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
if words("CapabilityBoundingSet") == [[]]:
    for capability in range(int(open("/proc/sys/kernel/cap_last_cap").read()) + 1):
        call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

# Each filter is one more: a call must pass all. Nothing but execve follows the last.
families = seccomp.SyscallFilter(seccomp.ALLOW)
wanted = {int(getattr(socket, name)) for name in words("RestrictAddressFamilies")[0]}
for family in set(range(64)) - wanted:
    families.add_rule(seccomp.ERRNO(errno.EAFNOSUPPORT), "socket", seccomp.Arg(0, seccomp.EQ, family))
if dict(settings).get("MemoryDenyWriteExecute") == "yes":
    write, execute = 2, 4
    deny = seccomp.ERRNO(errno.EPERM)
    families.add_rule(deny, "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, write | execute, write | execute))
    for name in ("mprotect", "pkey_mprotect"):
        families.add_rule(deny, name, seccomp.Arg(2, seccomp.MASKED_EQ, execute, execute))
calls = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
for name in sorted(allowed):
    try:
        calls.add_rule(seccomp.ALLOW, name)
    except (RuntimeError, OSError, ValueError):
        pass  # Of another architecture, or newer than this library.
calls.set_attr(seccomp.Attr.CTL_NNP, 0)
families.set_attr(seccomp.Attr.CTL_NNP, 0)
program_path = program[0]
families.load()
calls.load()
os.execv(program_path, program)
