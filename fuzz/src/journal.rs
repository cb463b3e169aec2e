//! Bytes as the file of a journal: what is whole is read, what comes after the first damage is not, and what was read is
//! read again the same.
//!
//! Most inputs are records to which this module gives the checks that they need, so that the fuzzer need not find them, and
//! a damage to the file that they make. It writes the format from its description, so a change of the format is noticed.

use funcx_core::state::Ledger;
use funcx_net::journal::{Header, Replayed, Tail, decode_entry, replay};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const HEADER: Header = Header { epoch: 7, life: 3, boot: 9 };
const HEADER_BYTES: usize = 44;

/// The first byte says what happens to the file: nothing (0), it is cut at a place (1), a byte at a place is damaged (2),
/// zeros follow (3). Two bytes say the place, one says how a byte is damaged or how many zeros follow. Then come records,
/// each a length in two bytes and its body. Any other first byte: what follows is the file.
pub fn check(data: &[u8]) {
    match data {
        [kind @ 0..=3, low, high, value, records @ ..] => {
            check_damage(*kind, usize::from(u16::from_le_bytes([*low, *high])), *value, &bodies(records));
        }
        [0..=3, ..] | [] => {}
        [_, file @ ..] => drop(check_file(file)),
    }
}

fn bodies(mut data: &[u8]) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*length))));
        bodies.push(body);
        data = rest;
    }
    bodies
}

fn check_damage(kind: u8, place: usize, value: u8, bodies: &[&[u8]]) {
    let mut file = header();
    let mut ends = vec![file.len()];
    for body in bodies {
        let length = (body.len() as u32).to_le_bytes();
        file.extend(length);
        file.extend((xxh3_64_with_seed(&length, HEADER.epoch) as u32).to_le_bytes());
        file.extend(xxh3_64_with_seed(body, HEADER.epoch).to_le_bytes());
        file.extend(*body);
        ends.push(file.len());
    }
    let place = place % file.len();
    let whole = match kind {
        1 => {
            file.truncate(place);
            place
        }
        2 => {
            file[place] ^= value.max(1);
            place
        }
        3 => {
            let whole = file.len();
            file.resize(whole + usize::from(value), 0);
            whole
        }
        _ => file.len(),
    };

    let replayed = check_file(&file);
    if whole < HEADER_BYTES {
        assert_eq!(replayed, Replayed::Unreadable, "without a header");
        return;
    }
    // Records count until one is not whole, or says something that this version does not write.
    let mut ledger = Ledger::default();
    let mut read = 0;
    for (body, end) in bodies.iter().zip(&ends[1..]) {
        let Some(entry) = (*end <= whole).then(|| decode_entry(body).ok()).flatten() else { break };
        ledger.apply(&entry);
        read += 1;
    }
    let rest = (file.len() - ends[read]) as u64;
    let strange = ends.get(read + 1).is_some_and(|end| *end <= whole);
    let tail = match kind {
        _ if rest == 0 => Tail::Whole,
        2 => Tail::Damaged(rest),
        _ if strange => Tail::Damaged(rest),
        _ => Tail::Torn(rest),
    };
    assert_eq!(replayed, Replayed::Read { header: HEADER, ledger, end: ends[read] as u64, tail });
}

/// Reads a file, and what could be read of it once more.
fn check_file(file: &[u8]) -> Replayed {
    let replayed = replay(file);
    if let Replayed::Read { header, ledger, end, tail } = &replayed {
        let (Tail::Torn(rest) | Tail::Damaged(rest)) = tail else {
            assert_eq!(*end, file.len() as u64, "a whole file");
            return replayed;
        };
        assert_eq!(end + rest, file.len() as u64, "every byte is accounted for");
        let again = replay(&file[..*end as usize]);
        let (header, ledger) = (*header, ledger.clone());
        assert_eq!(again, Replayed::Read { header, ledger, end: *end, tail: Tail::Whole });
    }
    replayed
}

fn header() -> Vec<u8> {
    let mut bytes = b"funcxjnl".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((xxh3_64(&bytes) as u32).to_le_bytes());
    bytes.extend(HEADER.epoch.to_le_bytes());
    bytes.extend(HEADER.life.to_le_bytes());
    bytes.extend(HEADER.boot.to_le_bytes());
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    bytes
}
