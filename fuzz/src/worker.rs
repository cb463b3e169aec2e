//! Bytes as what happens around a process pool: what its worker processes write, and when they come and go.

use funcx_provider::worker::scripted::{ScriptedPool, Step};

/// Things that happen in one run; what more would find, fewer find sooner.
const MAX_STEPS: usize = 300;

/// Each byte that begins a step says which; the bytes that follow are its fields. What is missing at the end is zero. Text
/// and frames have their length before them. After the last step everybody does what they are told, and the pool drains.
pub fn check(mut data: &[u8]) {
    let mut pool = ScriptedPool::default();
    for _ in 0..MAX_STEPS {
        let Some(step) = decode(&mut data) else { break };
        pool.step(step);
    }
    pool.finish();
}

fn decode<'a>(data: &mut &'a [u8]) -> Option<Step<'a>> {
    let kind = next(data)?;
    let mut byte = || next(data).unwrap_or_default();
    Some(match kind % 16 {
        0 => {
            let (tasks, function, how) = (byte(), byte(), byte());
            Step::Start { tasks, function, how }
        }
        1 => Step::Cancel { task: byte() },
        2 => Step::Pass { power: byte() },
        3 => Step::PassToNext,
        4 => Step::Fork { process: byte() },
        5 | 6 => Step::Greet { process: byte() },
        7 | 8 => {
            let (process, tasks, nanos) = (byte(), byte(), byte());
            Step::Work { process, tasks, nanos, raises: kind % 16 == 8 }
        }
        9 => Step::Forge {
            process: byte(),
            other: byte(),
            which: byte(),
            kind: byte(),
            claimed: byte(),
            actual: byte(),
        },
        10 => Step::Write { process: byte(), bytes: text(data) },
        11 => Step::HangUp { process: byte() },
        12 => Step::Exit { process: byte(), status: byte() },
        13 => Step::ZygoteWrites { line: text(data) },
        14 => Step::ZygoteChanges { fails: byte() & 1 == 1 },
        _ => Step::Drain { stops: byte() & 1 == 1 },
    })
}

fn next(data: &mut &[u8]) -> Option<u8> {
    data.split_off_first().copied()
}

fn text<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let length = next(data).unwrap_or_default();
    let (text, rest) = data.split_at(data.len().min(usize::from(length)));
    *data = rest;
    text
}
