//! Processes of this machine that descend from this one.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// A process; another one that gets its number later is not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// When it was started, in ticks since the system was.
    started: u64,
}

impl Process {
    /// The process that has this number now, unless it has ended.
    pub(super) fn find(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (!stat.is_zombie).then_some(Self { pid, started: stat.started })
    }

    /// Its children, oldest first.
    pub(super) fn children(self) -> Vec<Self> {
        children(self.pid).into_iter().filter_map(Self::find).collect()
    }

    pub(super) fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Sends a signal, if it is there to get it.
    pub(super) fn signal(self, signal: Signal) -> bool {
        // Between the look and the signal the number can pass on only if the whole range of numbers has been used up.
        self.is_alive() && i32::try_from(self.pid).is_ok_and(|pid| kill(Pid::from_raw(pid), signal).is_ok())
    }

    /// Time that all its threads have used, unless it has ended. As exact as the system's tick, mostly 10 ms.
    pub(super) fn processor_time(self) -> Option<Duration> {
        let stat = Stat::read(self.pid).filter(|stat| stat.started == self.started)?;
        let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
        Some(Duration::from_secs_f64(stat.ticks as f64 / per_second as f64))
    }

    /// What it was started as.
    pub(super) fn command(self) -> String {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.join(" ").trim().chars().take(200).collect()
    }
}

/// Lets what descends from this process come to it when its own parent ends, so that it can be ended too.
pub(super) fn adopt_orphans() -> Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true).context("cannot adopt processes")?;
    Ok(())
}

/// Ends every process that this one has started when it is dropped.
#[derive(Debug)]
pub(super) struct KillDescendants;

impl Drop for KillDescendants {
    fn drop(&mut self) {
        kill_descendants();
    }
}

/// Everything that this process has started, and what those have, except what has ended.
pub(super) fn descendants() -> Vec<Process> {
    let mut found = Vec::new();
    let mut parents = vec![std::process::id()];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            parents.push(child);
            found.extend(Process::find(child));
        }
    }
    found
}

/// Ends all descendants. What they have started meanwhile ends too.
fn kill_descendants() {
    for _ in 0..100 {
        let left = descendants();
        if left.is_empty() {
            break;
        }
        for process in left {
            process.signal(Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Takes note of the end of processes whose parents ended before them, which come to us. `ours` are those that somebody
/// else waits for. Returns what may be such a process; it is one if it still is there the next time.
pub(super) fn reap(seen: &[u32], ours: &[u32]) -> Vec<u32> {
    let zombies: Vec<u32> = children(std::process::id())
        .into_iter()
        .filter(|pid| !ours.contains(pid) && Stat::read(*pid).is_some_and(|stat| stat.is_zombie))
        .collect();
    for pid in zombies.iter().filter(|pid| seen.contains(pid)) {
        if let Ok(pid) = i32::try_from(*pid) {
            // That somebody else was faster is no harm.
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
    zombies
}

fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    // A process that has just ended has none.
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found.sort_unstable();
    found
}

struct Stat {
    is_zombie: bool,
    started: u64,
    /// Processor time.
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything. The state is the first field after it, the start the 20th,
        // the times with and without the kernel the 12th and 13th.
        let fields: Vec<_> = text.rsplit_once(") ")?.1.split_whitespace().collect();
        let is_zombie = matches!(*fields.first()?, "Z" | "X");
        let field = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self { is_zombie, started: field(19)?, ticks: field(11)? + field(12)? })
    }
}
