"""The system calls that confined commands may make: what ordinary programs need, and nothing else.

The list starts from the default profile that Docker and Podman share, without the calls that a sandboxed command
can't use, or must not. Calls that are in neither list do not exist for a command, whatever the kernel has; see
docs/decisions.md, D113.
"""

from __future__ import annotations

_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fchdir fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_setup io_submit ioctl lchown lchown32 lgetxattr link linkat
    listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat newfstatat open
    openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv
    removexattr rename renameat renameat2 rmdir sendfile sendfile64 setxattr splice stat stat64 statfs statfs64 statx
    symlink symlinkat sync sync_file_range sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 umask
    unlink unlinkat utime utimensat utimensat_time64 utimes write writev
"""
_MEMORY = """
    brk get_mempolicy madvise mbind membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap msync munlock
    munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages set_mempolicy
    set_mempolicy_home_node
"""
_PROCESSES = """
    arch_prctl capget capset clone execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid
    getpriority getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32
    ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self personality pidfd_open
    pidfd_send_signal prctl prlimit64 rseq sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list
    set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
    setsid setuid setuid32 sysinfo times ugetrlimit uname vfork wait4 waitid waitpid
"""
_SIGNALS = """
    pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal signalfd signalfd4
    sigpending sigprocmask sigreturn sigsuspend tgkill tkill
"""
_TIME = """
    alarm clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
    getitimer gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 futex futex_time64
    futex_waitv _newselect pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select
"""
_EXCHANGE = """
    accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg sendto setsockopt
    shutdown socket socketcall socketpair
"""
_OTHERS = """
    breakpoint cacheflush get_tls getrandom set_tls
"""
ALLOWED = tuple(f"{_FILES} {_MEMORY} {_PROCESSES} {_SIGNALS} {_TIME} {_WAITING} {_EXCHANGE} {_OTHERS}".split())
"""System calls that a command may make. Of some the filter refuses certain arguments."""

_TRACING = "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp"
_KEYS = "add_key request_key keyctl"
_KERNEL = (
    "bpf perf_event_open userfaultfd fanotify_init lookup_dcookie syslog acct quotactl quotactl_fd nfsservctl "
    "kexec_load kexec_file_load init_module finit_module delete_module create_module query_module reboot "
    "swapon swapoff iopl ioperm modify_ldt vm86 vm86old vhangup uselib sethostname setdomainname"
)
_CLOCK = "settimeofday clock_settime clock_settime64 clock_adjtime clock_adjtime64 adjtimex stime"
_MOUNTS = (
    "mount umount umount2 pivot_root chroot setns unshare open_tree move_mount mount_setattr "
    "fsopen fsconfig fsmount fspick open_by_handle_at name_to_handle_at"
)
REFUSED = tuple(f"{_TRACING} {_KEYS} {_KERNEL} {_CLOCK} {_MOUNTS}".split())
"""System calls that fail with EPERM, as without the right to make them."""

_OF_NO_PROCESS = "memfd_create memfd_secret shmget msgget"
ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", *_OF_NO_PROCESS.split())
"""System calls that fail with ENOSYS, as all do that are in no list. clone3's flags lie in memory, which a filter can't
read; clone's do not. The memory of unnamed files, System V segments and queues is not any process's own, so that no
limit counts it; programs use ``/tmp`` or ``/dev/shm`` instead, which have a size. They are named because 32-bit x86
has one call for several of them, ``ipc``."""
