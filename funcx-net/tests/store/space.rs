//! What happens when the disk has no room, or fails.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use funcx_core::contract::{TaskQuery, TaskStore, Write};
use funcx_core::model::ErrorKind;
use funcx_net::store::{EmbeddedStore, StoreOptions};
use nix::sys::resource::{Resource, setrlimit};

use super::super::{ENDPOINT, GROUP, QUEUE, outcome, payload, submission, task_id};

const LIMITED: &str = "FUNCX_TEST_LIMITED_STORE";
const MIB: u64 = 1 << 20;
/// Far longer than anything takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_commit_that_would_fill_the_disk_is_refused_and_can_be_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    // A reserve that no disk has is as good as a full disk.
    let full = EmbeddedStore::open_with(directory.path(), &StoreOptions { reserve_bytes: u64::MAX }).unwrap();
    let error = full.commit(vec![Write::Submit(submission(1, 1, 10))]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable() && error.to_string().contains("the disk is full"), "{error}");
    assert!(full.tasks(&[task_id(1)]).await.unwrap()[0].is_none(), "nothing is visible");
    assert_eq!(full.backlog(ENDPOINT).await.unwrap().tasks, 0);
    drop(full);

    let roomy = EmbeddedStore::open(directory.path()).unwrap();
    assert!(roomy.tasks(&[task_id(1)]).await.unwrap()[0].is_none(), "nothing was written");
    roomy.commit(vec![Write::Submit(submission(1, 1, 10))]).await.unwrap();
    assert_eq!(roomy.backlog(ENDPOINT).await.unwrap().tasks, 1);
}

/// Runs itself once more as a process whose files may not grow any more for a while.
#[tokio::test]
async fn a_store_whose_disk_failed_in_the_middle_goes_on_when_the_disk_does() {
    if let Ok(path) = env::var(LIMITED) {
        return commit_while_the_disk_fails(&path).await;
    }
    let directory = tempfile::tempdir().unwrap();
    // The shell has the child ignore the signal that would otherwise end it at the limit.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args([
            "--exact",
            "store::space::a_store_whose_disk_failed_in_the_middle_goes_on_when_the_disk_does",
            "--nocapture",
        ])
        .env(LIMITED, directory.path())
        .status()
        .unwrap();
    assert!(status.success(), "the other process saw what it should");

    let store = EmbeddedStore::open(directory.path()).unwrap();
    let tasks = store.tasks(&[task_id(1), task_id(2), task_id(9)]).await.unwrap();
    let there: Vec<bool> = tasks.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, true], "what was acknowledged is there, and nothing else");
}

async fn commit_while_the_disk_fails(path: &str) {
    let store = EmbeddedStore::open(path).unwrap();
    store.commit(vec![Write::Submit(submission(1, 1, 10))]).await.unwrap();
    let limit_files = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, nix::libc::RLIM_INFINITY).unwrap();
    limit_files(MIB);

    // It is torn in the middle, so it never counts; that is known once the database has been opened again.
    let torn = store.commit(vec![Write::Submit(submission(2, 3, 2 * MIB as usize))]);
    let error = tokio::time::timeout(PATIENCE, torn).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable() && error.to_string().contains("limit"), "{error}");
    limit_files(nix::libc::RLIM_INFINITY);

    let again = || async { store.commit(vec![Write::Submit(submission(9, 1, 10))]).await };
    until_ok(again).await;
    let tasks = store.tasks(&[task_id(1), task_id(2), task_id(9)]).await.unwrap();
    let there: Vec<bool> = tasks.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, true]);
    assert_eq!(store.backlog(ENDPOINT).await.unwrap().tasks, 2);
}

/// Tries until it works. What fails meanwhile says that it can be tried again.
async fn until_ok<F: Future<Output = funcx_core::Result<()>>>(attempt: impl Fn() -> F) {
    let tried = async {
        while let Err(error) = attempt().await {
            assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.expect("it works again");
}

/// A small file system of its own; gone when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if this process may not mount.
    fn mount(path: &Path, mib: u64) -> Option<Self> {
        let size = format!("size={mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(path).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        mounted.then(|| Self(path.to_owned()))
    }

    fn remount(&self, mode: &str) {
        let options = format!("remount,{mode}");
        let remount = Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap();
        assert!(remount.success(), "remount {mode}");
    }

    /// Takes all the space that is left, as another program would.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        let block = vec![1; 64 << 10];
        while file.write_all(&block).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Eight clients submit and finish while another program fills the disk again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_accepts_nothing_that_it_refused() {
    let mount = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(mount.path(), 96) else {
        eprintln!("skipped: this process may not mount a file system");
        return;
    };
    // Hardly any reserve, so that the disk is also found full in the middle of a commit.
    let path = mount.path().join("store");
    let options = StoreOptions { reserve_bytes: 64 << 10 };
    let store = Arc::new(EmbeddedStore::open_with(&path, &options).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let next = Arc::new(AtomicU64::new(1));
    let clients = (0..8).map(|_| {
        let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
        let next = Arc::clone(&next);
        tokio::spawn(async move {
            let (mut accepted, mut finished) = (Vec::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let first = next.fetch_add(3, Ordering::Relaxed);
                match store.commit(vec![Write::Submit(submission(first, 3, 3000))]).await {
                    Ok(()) => accepted.push(first),
                    Err(error) => {
                        assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error}");
                        tokio::task::yield_now().await;
                        continue;
                    }
                }
                if store.commit(vec![Write::Finish(vec![outcome(first)])]).await.is_ok() {
                    finished.push(first);
                }
            }
            (accepted, finished)
        })
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..4 {
        let accepts = || async { store.commit(vec![Write::PutFunction(function())]).await };
        disk.fill();
        // One that was cut short may be answered only when there is room again, so this waits for none.
        let full = async {
            let mut refusals = 0;
            while refusals < 20 {
                tokio::select! {
                    done = accepts() => refusals += u32::from(done.is_err()),
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, full).await.expect("submissions are refused");
        disk.free();
        until_ok(accepts).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut accepted, mut finished) = (BTreeSet::new(), BTreeSet::new());
    for client in clients {
        let (some, ended) = client.await.unwrap();
        accepted.extend(some);
        finished.extend(ended);
    }
    audit(&store, &accepted, &finished).await;
    drop(store);
    let store = EmbeddedStore::open(&path).unwrap();
    audit(&store, &accepted, &finished).await;
}

/// Exactly what was acknowledged is there.
async fn audit(store: &EmbeddedStore, accepted: &BTreeSet<u64>, finished: &BTreeSet<u64>) {
    let mut listed = BTreeSet::new();
    let mut after = None;
    loop {
        let (ids, next) = store.task_ids(TaskQuery::Group(GROUP), after, usize::MAX).await.unwrap();
        listed.extend(ids);
        after = next;
        if after.is_none() {
            break;
        }
    }
    let expected: BTreeSet<_> = accepted.iter().flat_map(|first| (*first..first + 3).map(task_id)).collect();
    assert_eq!(listed.difference(&expected).next(), None, "a refused task is there");
    assert_eq!(expected.difference(&listed).next(), None, "an accepted task is lost");
    let mut ended = BTreeSet::new();
    for first in accepted {
        for task in store.tasks(&[*first, first + 1, first + 2].map(task_id)).await.unwrap() {
            let task = task.unwrap();
            let number = task.id.as_u128() as u64;
            if task.outcome.is_none() {
                assert_eq!(task.payload, payload(number, 3000), "{number}");
            }
            ended.extend(task.outcome.map(|_| number));
        }
    }
    assert_eq!(&ended, finished, "outcomes that were acknowledged, and no others");
    let backlog = store.backlog(ENDPOINT).await.unwrap();
    assert_eq!(backlog.tasks as usize, expected.len() - ended.len());
    let first = store.pending(ENDPOINT, QUEUE, 0, 1, usize::MAX).await.unwrap();
    assert_eq!(first.is_empty(), backlog.tasks == 0);
}

#[tokio::test]
async fn a_read_only_disk_refuses_and_goes_on_when_it_is_writable_again() {
    let mount = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(mount.path(), 96) else {
        eprintln!("skipped: this process may not mount a file system");
        return;
    };
    let path = mount.path().join("store");
    let store = EmbeddedStore::open_with(&path, &StoreOptions { reserve_bytes: MIB }).unwrap();
    store.commit(vec![Write::Submit(submission(1, 1, 10))]).await.unwrap();
    drop(store);
    disk.remount("ro");
    let error = EmbeddedStore::open(&path).expect_err("it cannot be opened");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("read-only"), "{error}");
    disk.remount("rw");
    let store = EmbeddedStore::open_with(&path, &StoreOptions { reserve_bytes: MIB }).unwrap();
    store.commit(vec![Write::Submit(submission(2, 1, 10))]).await.unwrap();
}

fn function() -> Arc<funcx_core::contract::FunctionRecord> {
    Arc::new(funcx_core::contract::FunctionRecord {
        id: funcx_core::model::FunctionId::from_u128(3),
        function: Arc::new(funcx_core::model::Function::native("f")),
        name: "f".to_owned(),
        description: String::new(),
        owner: funcx_core::model::IdentityId::from_u128(4),
        access: funcx_core::contract::Access::Private,
        memoize: funcx_core::model::Memoize::Never,
        metadata: "{}".to_owned(),
        created: funcx_core::model::Timestamp::from_nanos(1),
    })
}
