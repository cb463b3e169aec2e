"""What /proc says about this machine and about the processes of a run."""
import ctypes
import os
import platform
import signal
import time

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Makes this process the parent of every orphan below it, so that nothing a run has started gets out of sight."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stat(pid):
    """The fields of /proc/PID/stat behind the name, which may hold anything; none if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def descendants(root):
    """Processes below `root`, without it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(name)):
            children.setdefault(int(stat[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def cpu_seconds(root):
    """CPU time of `root` and all below it, with that of children which have ended and were waited for."""
    stats = (_stat(pid) for pid in [root, *descendants(root)])
    return sum(sum(map(int, stat[11:15])) for stat in stats if stat) / TICKS


def resident_bytes(pids):
    """Resident memory of these processes."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                total += int(file.read().split()[1]) * PAGE
        except OSError:
            pass
    return total


def machine_seconds():
    """CPU time that was used on the whole machine, and that there was."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    used = user + nice + system + irq + softirq + steal
    return used / TICKS, (used + idle + iowait) / TICKS


def foreign_percent(used, own, total):
    """Share of the machine's CPU time that others had; none where the time is too short for the clock's ticks."""
    if total < 20 / TICKS:
        return None
    return round(max(0.0, 100 * (used - own) / total), 1)


class Meter:
    """Times something that the processes below `root` do, and sees who else used the machine meanwhile."""

    def __init__(self, root):
        self.root = root

    def __enter__(self):
        self.machine, self.own = machine_seconds(), cpu_seconds(self.root)
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.began
        machine, own = machine_seconds(), cpu_seconds(self.root)
        self.cpu = own - self.own
        self.foreign = foreign_percent(machine[0] - self.machine[0], self.cpu, machine[1] - self.machine[1])


def end_descendants(root, patience=5.0):
    """Ends everything below `root`, which must have adopted orphans: politely for `patience` seconds, then by force."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 30.0)):
        end = time.monotonic() + seconds
        while True:
            alive = [pid for pid in descendants(root) if not _reaped(pid)]
            if not alive:
                return
            if time.monotonic() > end:
                break
            for pid in alive:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
    raise RuntimeError(f"processes that do not end: {descendants(root)}")


def _reaped(pid):
    """Whether the process has ended. Only our own children can be waited for; others are their parents' business."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        stat = _stat(pid)
        return stat is None or stat[0] == "Z"


def description():
    """The machine in a few words."""
    model = "unknown processor"
    memory = 0
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) / (1 << 20)
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
