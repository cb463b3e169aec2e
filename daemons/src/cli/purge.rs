//! `funcx task purge`

use std::process::ExitCode;

use anyhow::Result;
use funcx_net::client::PurgeAnswer;

use super::common::Common;
use super::which::Which;
use crate::exit::Exit;

/// Forgets tasks that have ended, and says how many.
pub(super) async fn run(common: &Common, Which { ids, group }: Which) -> Result<ExitCode> {
    let client = common.client()?;
    let answer = match group {
        Some(group) => client.purge_group(group).await?,
        None => client.purge(&ids).await?,
    };
    common.output().show(&answer, in_words)?;
    Ok(if answer.unknown == 0 { ExitCode::SUCCESS } else { Exit::Failure.into() })
}

fn in_words(answer: &PurgeAnswer) -> String {
    let PurgeAnswer { purged, unfinished, unknown } = answer;
    let mut text = format!("{purged} forgotten");
    for (count, word) in [(unfinished, "not ended, kept"), (unknown, "unknown")] {
        if *count > 0 {
            text += &format!(", {count} {word}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_said() {
        let answer = |purged, unfinished, unknown| PurgeAnswer { purged, unfinished, unknown };
        assert_eq!(in_words(&answer(3, 0, 0)), "3 forgotten");
        assert_eq!(in_words(&answer(0, 2, 1)), "0 forgotten, 2 not ended, kept, 1 unknown");
    }
}
