"""The table of system calls that a sandboxed process is refused, or that do nothing for it; data, and no code.

Numbers are of x86-64 and of the generic table (aarch64), from the kernel's own headers. What is newer than `NEWEST` is
answered with ENOSYS, as by an older kernel: a call that nobody has looked at here is not let through.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

__all__ = ["NEWEST", "QUIET", "REFUSED", "RULES", "SOCKETS", "TOUCHES", "Condition", "Number", "Rule"]

NEWEST: Final = 462
"""mseal. Behind it come setxattrat (463) and file_setattr (469), which change files that Landlock does not guard so."""


class Number(NamedTuple):
    """One system call's number, None where the architecture has no such call."""

    x86_64: int | None
    aarch64: int | None


def _same(number: int) -> Number:
    """Return the number of a call that came after the architectures' tables were made one (from 424 on)."""
    return Number(number, number)


QUIET: Final = {
    "chmod": Number(90, None),
    "fchmod": Number(91, 52),
    "fchmodat": Number(268, 53),
    "fchmodat2": _same(452),
    "chown": Number(92, None),
    "fchown": Number(93, 55),
    "lchown": Number(94, None),
    "fchownat": Number(260, 54),
    "utime": Number(132, None),
    "utimes": Number(235, None),
    "futimesat": Number(261, None),
    "utimensat": Number(280, 88),
}
"""What answers success and does nothing. Landlock does not cover these, and with an error `git init`, `shutil.copy`,
the building of wheels and pytest's cache fail, none of which needs what the call would do."""

_EPERM: Final = errno.EPERM
_ENOSYS: Final = errno.ENOSYS  # programs fall back to the older call, as on an older kernel
_EOPNOTSUPP: Final = errno.EOPNOTSUPP  # as of a file system without the feature: programs pass over it

REFUSED: Final[dict[str, tuple[Number, int]]] = {
    # Other processes: their memory, descriptors and pages.
    "ptrace": (Number(101, 117), _EPERM),
    "process_vm_readv": (Number(310, 270), _EPERM),
    "process_vm_writev": (Number(311, 271), _EPERM),
    "process_madvise": (_same(440), _EPERM),
    "process_mrelease": (_same(448), _EPERM),
    "pidfd_getfd": (_same(438), _EPERM),
    "kcmp": (Number(312, 272), _EPERM),
    "migrate_pages": (Number(256, 238), _EPERM),
    "move_pages": (Number(279, 239), _EPERM),
    # Memory and queues that are shared by a number or a name, of which Landlock knows nothing.
    "shmget": (Number(29, 194), _EPERM),
    "shmat": (Number(30, 196), _EPERM),
    "shmctl": (Number(31, 195), _EPERM),
    "semget": (Number(64, 190), _EPERM),
    "semop": (Number(65, 193), _EPERM),
    "semtimedop": (Number(220, 192), _EPERM),
    "semctl": (Number(66, 191), _EPERM),
    "msgget": (Number(68, 186), _EPERM),
    "msgsnd": (Number(69, 189), _EPERM),
    "msgrcv": (Number(70, 188), _EPERM),
    "msgctl": (Number(71, 187), _EPERM),
    "mq_open": (Number(240, 180), _EPERM),
    "mq_unlink": (Number(241, 181), _EPERM),
    # What the file system looks like, and namespaces, in which that could be changed.
    "mount": (Number(165, 40), _EPERM),
    "umount2": (Number(166, 39), _EPERM),
    "pivot_root": (Number(155, 41), _EPERM),
    "chroot": (Number(161, 51), _EPERM),
    "open_tree": (_same(428), _EPERM),
    "move_mount": (_same(429), _EPERM),
    "fsopen": (_same(430), _EPERM),
    "fsconfig": (_same(431), _EPERM),
    "fsmount": (_same(432), _EPERM),
    "fspick": (_same(433), _EPERM),
    "mount_setattr": (_same(442), _EPERM),
    "statmount": (_same(457), _ENOSYS),
    "listmount": (_same(458), _ENOSYS),
    "swapon": (Number(167, 224), _EPERM),
    "swapoff": (Number(168, 225), _EPERM),
    "quotactl": (Number(179, 60), _EPERM),
    "quotactl_fd": (_same(443), _EPERM),
    "unshare": (Number(272, 97), _EPERM),
    "setns": (Number(308, 268), _EPERM),
    # Its flags lie in memory, where no filter can look: threads fall back to `clone`.
    "clone3": (_same(435), _ENOSYS),
    # It does what system calls do, unseen by any filter.
    "io_uring_setup": (_same(425), _ENOSYS),
    "io_uring_enter": (_same(426), _ENOSYS),
    "io_uring_register": (_same(427), _ENOSYS),
    # Large parts of the kernel that no plugin needs.
    "bpf": (Number(321, 280), _EPERM),
    "perf_event_open": (Number(298, 241), _EPERM),
    "userfaultfd": (Number(323, 282), _EPERM),
    "keyctl": (Number(250, 219), _EPERM),  # the operator's keyring, with what other programs keep there
    "add_key": (Number(248, 217), _EPERM),
    "request_key": (Number(249, 218), _EPERM),
    "init_module": (Number(175, 105), _EPERM),
    "finit_module": (Number(313, 273), _EPERM),
    "delete_module": (Number(176, 106), _EPERM),
    "kexec_load": (Number(246, 104), _EPERM),
    "kexec_file_load": (Number(320, 294), _EPERM),
    "reboot": (Number(169, 142), _EPERM),
    "iopl": (Number(172, None), _EPERM),
    "ioperm": (Number(173, None), _EPERM),
    "modify_ldt": (Number(154, None), _EPERM),
    "syslog": (Number(103, 116), _EPERM),  # the kernel's log
    "acct": (Number(163, 89), _EPERM),
    "settimeofday": (Number(164, 170), _EPERM),
    "clock_settime": (Number(227, 112), _EPERM),
    "sethostname": (Number(170, 161), _EPERM),
    "setdomainname": (Number(171, 162), _EPERM),
    "vhangup": (Number(153, 58), _EPERM),
    "uselib": (Number(134, None), _ENOSYS),
    "nfsservctl": (Number(180, 42), _ENOSYS),
    "lsm_set_self_attr": (_same(460), _EPERM),
    # Files that Landlock does not guard so: by a handle, by their attributes, by what happens to them (the names of a
    # folder that it may not list), and devices.
    "name_to_handle_at": (Number(303, 264), _EOPNOTSUPP),
    "open_by_handle_at": (Number(304, 265), _EPERM),
    "fanotify_init": (Number(300, 262), _EPERM),
    "fanotify_mark": (Number(301, 263), _EPERM),
    "inotify_init": (Number(253, None), _ENOSYS),  # programs look again and again instead
    "inotify_init1": (Number(294, 26), _ENOSYS),
    "setxattr": (Number(188, 5), _EOPNOTSUPP),
    "lsetxattr": (Number(189, 6), _EOPNOTSUPP),
    "fsetxattr": (Number(190, 7), _EOPNOTSUPP),
    "getxattr": (Number(191, 8), _EOPNOTSUPP),
    "lgetxattr": (Number(192, 9), _EOPNOTSUPP),
    "fgetxattr": (Number(193, 10), _EOPNOTSUPP),
    "listxattr": (Number(194, 11), _EOPNOTSUPP),
    "llistxattr": (Number(195, 12), _EOPNOTSUPP),
    "flistxattr": (Number(196, 13), _EOPNOTSUPP),
    "removexattr": (Number(197, 14), _EOPNOTSUPP),
    "lremovexattr": (Number(198, 15), _EOPNOTSUPP),
    "fremovexattr": (Number(199, 16), _EOPNOTSUPP),
    "mknod": (Number(133, None), _EPERM),
    "mknodat": (Number(259, 33), _EPERM),
}
"""What is refused whatever its arguments are, with the error that it answers."""


class Condition(NamedTuple):
    """That an argument, under a mask, is one of some values. Of arguments the lower 32 bits count: all are `int`."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


class Rule(NamedTuple):
    """A call that some arguments are refused: what does not meet all conditions, or, with `refuses`, what does."""

    number: Number
    conditions: tuple[Condition, ...]
    refuses: bool = False


_OWN: Final = (0,)  # as a process id: the caller itself
_NAMESPACES: Final = 0x7E020000  # CLONE_NEW* of linux/sched.h; CLONE_NEWTIME is no flag of `clone`
_TERMINALS: Final = (
    0x5412,  # TIOCSTI: types into the terminal of whoever started the host
    0x541C,  # TIOCLINUX: the same on a console, by its selection
    0x541D,  # TIOCCONS: takes the console's output
    0x5423,  # TIOCSETD: another discipline of the line, of which the kernel loads a module
)
_FILE_FLAGS: Final = (
    0x40086602,  # FS_IOC_SETFLAGS: needs no right to write, so that what it may read could be made immutable
    0x40046602,  # FS_IOC32_SETFLAGS
    0x401C5820,  # FS_IOC_FSSETXATTR
    0x40087602,  # FS_IOC_SETVERSION
    0x40047602,  # FS_IOC32_SETVERSION
    0x40086604,  # EXT4_IOC_SETVERSION
    0x40806685,  # FS_IOC_ENABLE_VERITY
    0x800C6613,  # FS_IOC_SET_ENCRYPTION_POLICY
    0xC0506617,  # FS_IOC_ADD_ENCRYPTION_KEY
)

RULES: Final = {
    "clone": Rule(Number(56, 220), (Condition(0, (0,), _NAMESPACES),)),
    # A stream, whose ends are bound to each other. An end of datagrams could be turned to any socket of a path.
    "socketpair": Rule(Number(53, 199), (Condition(0, (1,)), Condition(1, (1, 5), 0xF))),
    "ioctl": Rule(Number(16, 29), (Condition(1, (*_TERMINALS, *_FILE_FLAGS)),), refuses=True),
    "setpriority": Rule(Number(141, 140), (Condition(0, (0,)), Condition(1, _OWN))),  # PRIO_PROCESS
    "ioprio_set": Rule(Number(251, 30), (Condition(0, (1,)), Condition(1, _OWN))),  # IOPRIO_WHO_PROCESS
    "sched_setparam": Rule(Number(142, 118), (Condition(0, _OWN),)),
    "sched_setscheduler": Rule(Number(144, 119), (Condition(0, _OWN),)),
    "sched_setaffinity": Rule(Number(203, 122), (Condition(0, _OWN),)),
    "sched_setattr": Rule(Number(314, 274), (Condition(0, _OWN),)),
    "prlimit64": Rule(Number(302, 261), (Condition(0, _OWN),)),
}
"""What is refused, with EPERM, by its arguments. Calls that concern other processes are let through for the caller's
own thread only, named as 0: whose another number is, no filter can tell."""

_HERE: Final = 0xFFFFFF9C  # AT_FDCWD: the file is named by its path; by a descriptor it is there

TOUCHES: Final = {
    "utime": (Condition(1, (0,)),),
    "utimes": (Condition(1, (0,)),),
    "futimesat": (Condition(0, (_HERE,)), Condition(2, (0,))),
    "utimensat": (Condition(0, (_HERE,)), Condition(2, (0,))),
}
"""How those of `QUIET` are told to set a path's times to now, which is answered with ENOSYS: after a success
`Path.touch` would not make a file that is missing."""

SOCKETS: Final = Rule(Number(41, 198), (Condition(0, (2, 10, 16)), Condition(2, (0, 1, 6, 17, 58))))
"""`socket` with the network: IPv4, IPv6, and the netlink through which the C library asks for addresses; of
their protocols the usual one, ICMP, TCP, UDP and ICMPv6. Never AF_UNIX, since Landlock does not see the sockets that
lie at a path; without the network, no socket at all."""
