//! `funcx task purge`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use funcx_core::model::{TaskGroupId, TaskId};
use funcx_net::client::PurgeAnswer;

use super::common::Common;
use crate::exit::Exit;

/// Which tasks to forget.
#[derive(Debug, Args)]
pub struct Options {
    /// Ids of the tasks
    #[arg(required_unless_present = "group", conflicts_with = "group")]
    pub ids: Vec<TaskId>,
    /// All of this task group
    #[arg(long, value_name = "ID")]
    pub group: Option<TaskGroupId>,
}

/// Forgets tasks that have ended, and says how many.
pub(super) async fn run(common: &Common, Options { ids, group }: Options) -> Result<ExitCode> {
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
