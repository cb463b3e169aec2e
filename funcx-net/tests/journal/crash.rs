//! Killing the process that writes the journal, at any moment.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use funcx_core::state::{JournalEntry, Recovered};
use funcx_net::journal::{Journal, JournalOptions};
use futures::executor::block_on;
use nix::{sys::signal, unistd::Pid};

use super::super::{attempt, batch};

const VICTIM: &str = "FUNCX_TEST_KILLED_JOURNAL";
/// After how many lines the process is killed: at once, while the journal is young, after many compactions.
const ROUNDS: [usize; 8] = [0, 1, 40, 3, 500, 0, 3000, 200];
const OPTIONS: JournalOptions = JournalOptions { compact_above_bytes: 32 << 10 };

/// What the process said. Each is said after it was recorded and before anything that could undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Leased(u64),
    Finished(u64),
    Acknowledged(u64),
}

/// Runs itself once more, again and again, as the process that is killed.
#[test]
fn what_was_recorded_survives_kill_9() {
    if let Ok(path) = env::var(VICTIM) {
        return record_until_killed(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut said = BTreeSet::new();
    let mut epoch = None;
    let mut life = 0;
    for lines in ROUNDS {
        said.extend(run_and_kill(directory.path(), lines));
        let (journal, found) = Journal::open(directory.path(), &OPTIONS).unwrap();
        assert_eq!(*epoch.get_or_insert(found.epoch), found.epoch, "the session goes on");
        assert!(found.complete && journal.repair().put_aside.is_none(), "killing damages nothing");
        assert!(found.life > life && found.next_sequence == funcx_core::state::first_sequence(found.life));
        life = found.life;
        check(&found, &said);
    }
    assert!(said.len() > 3000, "the processes got something done: {}", said.len());
}

fn record_until_killed(path: &Path) {
    let (journal, found) = Journal::open(path, &OPTIONS).unwrap();
    println!();
    for sequence in found.next_sequence.. {
        let attempt = attempt(sequence, 1);
        block_on(journal.record(vec![JournalEntry::Leased(vec![attempt])]));
        say("leased", sequence);
        let bytes = if sequence % 50 == 0 { 300_000 } else { 700 };
        block_on(journal.record(vec![JournalEntry::Outcomes(batch(sequence, &[attempt], bytes))]));
        say("finished", sequence);
        if sequence % 3 == 0 {
            block_on(journal.record(vec![JournalEntry::Acknowledged(sequence - 2)]));
            say("acknowledged", sequence - 2);
        }
    }
}

fn say(what: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {number}.").and_then(|()| out.flush()).unwrap();
}

fn parse(line: &str) -> Option<Said> {
    let (what, number) = line.strip_suffix('.')?.split_once(' ')?;
    let number = number.parse().ok()?;
    match what {
        "leased" => Some(Said::Leased(number)),
        "finished" => Some(Said::Finished(number)),
        "acknowledged" => Some(Said::Acknowledged(number)),
        _ => None,
    }
}

fn run_and_kill(path: &Path, lines: usize) -> Vec<Said> {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "journal::crash::what_was_recorded_survives_kill_9", "--nocapture"])
        .env(VICTIM, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    while said.len() < lines {
        said.extend(parse(&output.next().expect("it runs until it is killed")));
    }
    signal::kill(Pid::from_raw(victim.id().try_into().unwrap()), signal::Signal::SIGKILL).unwrap();
    victim.wait().unwrap();
    said.extend(output.filter_map(|line| parse(&line)));
    said
}

/// Every outcome that was safe is in the outbox unless it was acknowledged, and every attempt given out is known.
fn check(found: &Recovered, said: &BTreeSet<Said>) {
    let acknowledged = said.iter().filter_map(|said| match said {
        Said::Acknowledged(sequence) => Some(*sequence),
        Said::Leased(_) | Said::Finished(_) => None,
    });
    let acknowledged = acknowledged.max().unwrap_or(0);
    for batch in &found.outbox {
        let attempt = attempt(batch.sequence, 1);
        let bytes = batch.heads[0].lens[0] as usize;
        assert_eq!(batch, &super::super::batch(batch.sequence, &[attempt], bytes), "nothing is invented");
        assert!(batch.sequence > acknowledged, "{} was acknowledged", batch.sequence);
    }
    let oldest = found.outbox.first().map_or(u64::MAX, |batch| batch.sequence);
    for said in said {
        match *said {
            Said::Leased(sequence) if sequence > acknowledged => {
                let leased = found.leased.contains(&(attempt(sequence, 1), false));
                let ended = found.outbox.iter().any(|batch| batch.sequence == sequence);
                // One acknowledgement may have been written and not said.
                assert!(
                    leased || ended || sequence < oldest,
                    "attempt {sequence} was given out and is forgotten"
                );
            }
            Said::Finished(sequence) if sequence >= oldest => {
                let kept = found.outbox.iter().any(|batch| batch.sequence == sequence);
                assert!(kept, "the outcome {sequence} was safe and is lost");
            }
            Said::Finished(sequence) => {
                assert!(sequence <= acknowledged + 3, "the outcome {sequence} was safe and is lost");
            }
            Said::Leased(_) | Said::Acknowledged(_) => {}
        }
    }
}
