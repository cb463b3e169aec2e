//! Killing the process that has the store open, at any moment.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use funcx_core::contract::{TaskQuery, TaskStore, Write};
use funcx_core::model::Timestamp;
use funcx_net::store::EmbeddedStore;
use nix::{sys::signal, unistd::Pid};

use super::super::{ENDPOINT, GROUP, QUEUE, outcome, payload, submission, task_id};

const VICTIM: &str = "FUNCX_TEST_KILLED_STORE";
const TASKS: u64 = 7;
/// Some payloads lie in the record of their task, some beside it.
const PAYLOAD_BYTES: [usize; 3] = [20, 900, 5000];
/// After how many acknowledged submissions the process is killed: at once, while the journal is young, and later.
const ROUNDS: [usize; 10] = [0, 1, 0, 40, 3, 150, 0, 700, 12, 400];

/// Runs itself once more, again and again, as the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_and_nothing_is_half_there() {
    if let Ok(path) = env::var(VICTIM) {
        return commit_until_killed(&path).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut acknowledged = BTreeSet::new();
    for submissions in ROUNDS {
        acknowledged.extend(run_and_kill(&path, submissions));
        check(&path, &acknowledged).await;
    }
    assert!(acknowledged.len() > 1000, "the processes got something done: {}", acknowledged.len());
}

/// Commits from several tasks at once, and says what was acknowledged: `s` and the first task of a submission, `f`
/// and a finished task.
async fn commit_until_killed(path: &str) {
    let store = Arc::new(EmbeddedStore::open(path).unwrap());
    let (ids, _) = store.task_ids(TaskQuery::Group(GROUP), None, 1).await.unwrap();
    let mut first = 1;
    if !ids.is_empty() {
        let pending = store.pending(ENDPOINT, QUEUE, 0, 1, 1).await.unwrap();
        // Three of each seven tasks stay pending, so the last one pending tells where to go on.
        assert!(!pending.is_empty(), "some tasks are never finished");
        while let Some(task) = store.pending(ENDPOINT, QUEUE, first, 1000, usize::MAX).await.unwrap().last() {
            first = task.sequence;
        }
        first = first.div_ceil(TASKS) * TASKS + 1;
    }
    println!();
    let committers = (0..8).map(|lane| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for round in 0.. {
                let first = first + TASKS * (round * 8 + lane);
                let bytes = PAYLOAD_BYTES[first as usize % 3];
                store.commit(vec![Write::Submit(submission(first, TASKS, bytes))]).await.unwrap();
                say("s", first);
                let finished: Vec<_> = (first..first + 4).collect();
                store
                    .commit(vec![Write::Finish(finished.iter().map(|task| outcome(*task)).collect())])
                    .await
                    .unwrap();
                finished.into_iter().for_each(|task| say("f", task));
            }
        })
    });
    futures::future::join_all(committers.collect::<Vec<_>>()).await;
}

fn say(what: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {number}").and_then(|()| out.flush()).unwrap();
}

/// What the process acknowledged before it was killed.
fn run_and_kill(path: &Path, submissions: usize) -> Vec<(bool, u64)> {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "store::crash::what_was_acknowledged_survives_kill_9_and_nothing_is_half_there",
            "--nocapture",
        ])
        .env(VICTIM, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let parse = |line: String| {
        let (what, number) = line.split_once(' ')?;
        Some((what == "s", number.parse().ok().filter(|_| what == "s" || what == "f")?))
    };
    let mut said = Vec::new();
    while said.iter().filter(|(submitted, _)| *submitted).count() < submissions {
        said.extend(parse(lines.next().expect("it runs until it is killed")));
    }
    signal::kill(Pid::from_raw(victim.id().try_into().unwrap()), signal::Signal::SIGKILL).unwrap();
    victim.wait().unwrap();
    // It may have said more in the meantime; only the last line can have been cut, and it ends a number too early.
    let mut rest: Vec<_> = lines.collect();
    rest.pop();
    said.extend(rest.into_iter().filter_map(parse));
    said
}

async fn check(path: &Path, acknowledged: &BTreeSet<(bool, u64)>) {
    let store = EmbeddedStore::open(path).unwrap();
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let (ids, next) = store.task_ids(TaskQuery::Group(GROUP), after, 1000).await.unwrap();
        listed.extend(ids);
        after = next;
        if after.is_none() {
            break;
        }
    }
    let mut pending = 0;
    for chunk in listed.chunks(1000) {
        for task in store.tasks(chunk).await.unwrap() {
            let task = task.expect("a task that is listed is there");
            let number = task.id.as_u128() as u64;
            let first = (number - 1) / TASKS * TASKS + 1;
            assert_eq!(task.sequence, number);
            match task.outcome {
                Some(found) => assert_eq!(found, outcome(number)),
                None => {
                    assert_eq!(task.payload, payload(number, PAYLOAD_BYTES[first as usize % 3]), "{number}");
                    pending += 1;
                }
            }
        }
    }
    assert_eq!(listed.len() as u64 % TASKS, 0, "a submission is there as a whole or not at all");
    assert_eq!(store.backlog(ENDPOINT).await.unwrap().tasks, pending, "the count is right");
    let always = (Timestamp::UNSET, Timestamp::from_nanos(u64::MAX));
    let (ended, _) = store.ended(GROUP, always.0, always.1, usize::MAX).await.unwrap();
    assert_eq!(ended.len() as u64, listed.len() as u64 - pending, "what has ended is listed as ended");
    let mut walked = 0;
    let mut last = 0;
    while let page = store.pending(ENDPOINT, QUEUE, last, 1000, usize::MAX).await.unwrap()
        && let Some(task) = page.last()
    {
        last = task.sequence;
        walked += page.len() as u64;
    }
    assert_eq!(walked, pending, "the queue holds what has no outcome");

    for (submitted, number) in acknowledged {
        let task = store.tasks(&[task_id(*number)]).await.unwrap().remove(0);
        let task = task.unwrap_or_else(|| panic!("task {number} was acknowledged and is lost"));
        assert!(*submitted || task.outcome.is_some(), "the outcome of {number} was acknowledged and is lost");
    }
}
