//! Which blocks run, in a file: an endpoint that was killed finds what it has left behind.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::process_group::ProcessGroup;

/// Longest file that is read; one that is full of blocks has a tenth of this.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// How long processes may take to be gone when they have been killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// The blocks that run, in memory and in a file.
///
/// The first line of the file names the boot of the system and the directory of the file, each further one a block: the id of
/// its process, and when that was started, in ticks since the boot. Process ids are used again, both together are not. A
/// directory is known by its number in the file system, so that a copy says nothing about what the original has started.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    blocks: Mutex<BTreeMap<u32, u64>>,
}

impl Ledger {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, blocks: Mutex::default() }
    }

    pub(super) fn started(&self, pid: u32) {
        // One that has ended already has left nothing to remember.
        if let Some(process) = Process::read(pid) {
            self.change(|blocks| blocks.insert(pid, process.started));
        }
    }

    pub(super) fn ended(&self, pid: u32) {
        self.change(|blocks| blocks.remove(&pid));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, u64>) -> Option<u64>) {
        let mut blocks = self.blocks.lock();
        change(&mut blocks);
        if let Err(error) = self.write(&blocks) {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot write down which blocks run; should this process be killed, they are not looked for");
        }
    }

    fn write(&self, blocks: &BTreeMap<u32, u64>) -> io::Result<()> {
        let mut text = place(&self.path)? + "\n";
        blocks.iter().for_each(|(pid, started)| text += &format!("{pid} {started}\n"));
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, &self.path)
    }
}

/// Ends what is left of the blocks in the file of an earlier provider, which is gone, and waits until it has ended.
/// Returns the number of processes.
///
/// # Errors
/// If the file cannot be read; `TimedOut` if something does not end.
pub(super) async fn end_leftovers(path: &Path) -> io::Result<usize> {
    let left = read(path)?;
    let mut seen = BTreeSet::new();
    let begun = Instant::now();
    loop {
        let tree = match left.is_empty() {
            true => BTreeSet::new(),
            false => belonging_to(&left, &processes()),
        };
        seen.extend(tree.iter().map(|process| (process.pid, process.started)));
        if tree.is_empty() {
            return Ok(seen.len());
        }
        if begun.elapsed() >= PATIENCE {
            let pids: Vec<_> = tree.iter().map(|process| process.pid.to_string()).collect();
            let message = format!("processes of earlier blocks do not end: {}", pids.join(", "));
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        tree.iter().for_each(|process| process.kill(&tree));
        sleep(LOOK).await;
    }
}

/// The blocks in a file that was written here since the system was started.
fn read(path: &Path) -> io::Result<BTreeMap<u32, u64>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_FILE_BYTES).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut lines = text.lines();
    if lines.next() != Some(&*place(path)?) {
        return Ok(BTreeMap::new());
    }
    let block = |line: &str| {
        let (pid, started) = line.split_once(' ')?;
        Some((pid.parse().ok()?, started.parse().ok()?))
    };
    Ok(lines.filter_map(block).collect())
}

/// The boot of the system, and the directory that a file is in.
fn place(path: &Path) -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let directory = fs::metadata(path.parent().unwrap_or(Path::new(".")))?;
    Ok(format!("{} {}:{}", boot.trim(), directory.dev(), directory.ino()))
}

/// A process that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    parent: u32,
    group: u32,
    started: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything. After it come state, parent and group; the start is the 20th.
        let mut fields = text.rsplit_once(") ")?.1.split_whitespace();
        let state = fields.next()?;
        let (parent, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let started = fields.nth(16)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, parent, group, started })
    }

    /// Ends this process of a tree, and its group if that is one of the tree.
    fn kill(self, tree: &BTreeSet<Self>) {
        if self.group == self.pid || tree.iter().any(|other| other.pid == self.group) {
            ProcessGroup::of_leader(self.group).into_iter().for_each(ProcessGroup::kill);
        }
        if let Ok(pid) = i32::try_from(self.pid) {
            // It may just have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The leaders of these blocks, who is in their groups, and everything that those have started.
///
/// A group may outlive its leader; its number is that of no other process as long as it does.
fn belonging_to(blocks: &BTreeMap<u32, u64>, all: &[Process]) -> BTreeSet<Process> {
    let now: HashMap<u32, u64> = all.iter().map(|process| (process.pid, process.started)).collect();
    let is_of_block = |process: &&Process| {
        blocks.get(&process.group).is_some_and(|started| {
            process.started >= *started && now.get(&process.group).is_none_or(|now| now == started)
        })
    };
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    all.iter().for_each(|process| children.entry(process.parent).or_default().push(*process));
    let mut found: BTreeSet<Process> = BTreeSet::new();
    let mut next: Vec<Process> = all.iter().filter(is_of_block).copied().collect();
    while let Some(process) = next.pop() {
        if found.insert(process) {
            next.extend(children.get(&process.pid).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_belongs_to_a_block_is_found() {
        let process = |pid, parent, group, started| Process { pid, parent, group, started };
        let leader = process(10, 1, 10, 100);
        let zygote = process(11, 10, 10, 101);
        let worker = process(12, 11, 12, 102);
        let stranger = process(20, 1, 20, 90);
        let blocks = BTreeMap::from([(10, 100)]);
        let found =
            |all: &[Process]| belonging_to(&blocks, all).into_iter().map(|one| one.pid).collect::<Vec<_>>();
        assert_eq!(found(&[leader, zygote, worker, stranger]), [10, 11, 12]);
        // The leader has ended, and what it had started has another parent.
        assert_eq!(found(&[process(11, 1, 10, 101), worker, stranger]), [11, 12]);
        // Its number belongs to somebody else.
        assert!(found(&[process(10, 1, 10, 200), process(11, 10, 10, 201)]).is_empty());
        assert!(found(&[process(30, 1, 10, 50)]).is_empty());
    }

    #[test]
    fn a_file_of_an_earlier_boot_or_of_somebody_else_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks");
        assert_eq!(read(&path).unwrap(), BTreeMap::new());
        let ledger = Ledger::new(path.clone());
        let own = std::process::id();
        ledger.started(own);
        assert_eq!(read(&path).unwrap().into_keys().collect::<Vec<_>>(), [own]);
        let copy = tempfile::tempdir().unwrap();
        fs::copy(&path, copy.path().join("blocks")).unwrap();
        assert_eq!(read(&copy.path().join("blocks")).unwrap(), BTreeMap::new());
        fs::write(&path, "an earlier one\n12 34\n").unwrap();
        assert_eq!(read(&path).unwrap(), BTreeMap::new());
        fs::write(&path, place(&path).unwrap() + "\n12 34\nx y\n56\n").unwrap();
        assert_eq!(read(&path).unwrap(), BTreeMap::from([(12, 34)]));
        ledger.ended(own);
        assert_eq!(read(&path).unwrap(), BTreeMap::new());
    }
}
