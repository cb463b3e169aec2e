//! `logs`.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::time::sleep;

use crate::endpoint::{Endpoints, LOGS};
use crate::exit::{Exit, Failed};

/// Between two looks for more. Nothing here is in a hurry.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes looked through for the last lines.
const MAX_TAIL_BYTES: u64 = 4 << 20;

#[derive(Debug, clap::Args)]
pub struct Logs {
    /// Name of the endpoint
    name: String,
    /// How many lines from the end
    #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT")]
    lines: usize,
    /// Go on as the log grows
    #[arg(long, short = 'f')]
    follow: bool,
    /// The log of the workers of this block instead
    #[arg(long, value_name = "NUMBER")]
    block: Option<u32>,
}

impl Logs {
    pub(super) async fn run(self, endpoints: &Endpoints) -> Result<()> {
        let directory = endpoints.existing(&self.name)?;
        let path = match self.block {
            Some(block) => directory.path().join(LOGS).join(format!("block-{block}.log")),
            None => directory.log_path(),
        };
        let mut position = print_tail(&path, self.lines)?;
        if !self.follow {
            return Ok(());
        }
        loop {
            sleep(LOOK).await;
            position =
                print_from(&path, position).with_context(|| format!("cannot read {}", path.display()))?;
        }
    }
}

/// Prints the last lines; returns where they end.
fn print_tail(path: &Path, lines: usize) -> Result<u64> {
    let mut log = match File::open(path) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = "an endpoint that runs in the foreground writes to its terminal";
            return Err(Failed::new(Exit::Failure, format!("there is no {} ({hint})", path.display())).into());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    log.take(length.min(MAX_TAIL_BYTES)).read_to_end(&mut tail)?;
    io::stdout().write_all(last_lines(&tail, lines))?;
    Ok(length)
}

/// Prints what has come since; returns where it ends. A log that has become shorter is a new one.
fn print_from(path: &Path, position: u64) -> io::Result<u64> {
    let mut log = File::open(path)?;
    let length = log.metadata()?.len();
    let position = if length < position { 0 } else { position };
    log.seek(SeekFrom::Start(position))?;
    let copied = io::copy(&mut log.take(length - position), &mut io::stdout())?;
    Ok(position + copied)
}

fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    // The end of the last line separates nothing.
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    match lines.checked_sub(1) {
        None => &[],
        Some(before) => ends.into_iter().nth(before).map_or(text, |at| &text[at + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
        for (text, lines, expected) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\nb\n", 1, "b\n"),
            ("a\n", 0, ""),
            ("", 3, ""),
            ("\n\n\n", 2, "\n\n"),
        ] {
            assert_eq!(last_lines(text.as_bytes(), lines), expected.as_bytes(), "{text:?} {lines}");
        }
    }
}
