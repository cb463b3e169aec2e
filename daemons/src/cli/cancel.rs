//! `funcx task cancel`

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use clap::Args;
use funcx_core::model::{OutcomeKind, TaskGroupId, TaskId, limit};
use funcx_net::client::{CancelAnswer, CancelEffect, Client, TaskView};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::common::Common;
use super::output::print_aside;
use super::which::Which;
use crate::exit::Exit;

/// Tasks that are waited for at a time; each takes a request that the service holds back.
const WAITING: usize = 32;

/// Which tasks to stop.
#[derive(Debug, Args)]
pub struct Options {
    /// By ids or group.
    #[command(flatten)]
    pub which: Which,
    /// Wait until those that run have been stopped, or have ended by themselves
    #[arg(long)]
    pub wait: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Said<'a> {
    #[serde(flatten)]
    answer: &'a CancelAnswer,
    /// What was done about each task that was named.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tasks: BTreeMap<TaskId, CancelEffect>,
    /// How those that were waited for have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<BTreeMap<&'static str, usize>>,
}

/// Stops tasks and says what that came to.
pub(super) async fn run(
    common: &Common,
    Options { which: Which { ids, group }, wait }: Options,
) -> Result<ExitCode> {
    let client = common.client()?;
    let answer = match group {
        Some(group) => client.cancel_group(group).await?,
        None => client.cancel(&ids).await?,
    };
    let ended = match wait {
        true => {
            if !common.json {
                print_aside(&in_words(&answer))?;
            }
            let tasks = match group {
                Some(group) => unfinished(&client, group).await?,
                None => asked(&ids, &answer),
            };
            Some(ends(&common.patient_client()?, tasks).await?)
        }
        false => None,
    };
    let effects = ids.iter().copied().zip(answer.effects.iter().copied()).collect();
    common.output().show(&Said { answer: &answer, tasks: effects, ended }, |said| {
        let mut words = match &said.ended {
            Some(ended) => ends_in_words(ended),
            None => in_words(said.answer),
        };
        for (id, _) in said.tasks.iter().filter(|(_, effect)| **effect == CancelEffect::Unknown) {
            words += &format!("\nthere is no task {id}");
        }
        words
    })?;
    Ok(if answer.unknown == 0 { ExitCode::SUCCESS } else { Exit::Failure.into() })
}

/// Those of the tasks that run and were asked to stop.
fn asked(ids: &[TaskId], answer: &CancelAnswer) -> Vec<TaskId> {
    let asked = ids.iter().zip(&answer.effects).filter(|(_, effect)| **effect == CancelEffect::Asked);
    asked.map(|(id, _)| *id).collect()
}

/// The tasks of a group that have not ended.
async fn unfinished(client: &Client, group: TaskGroupId) -> Result<Vec<TaskId>> {
    let mut unfinished = Vec::new();
    let mut after = None;
    loop {
        let page = client.tasks(Some(group), after.as_deref(), limit::MAX_PAGE_TASKS).await?;
        let running = page.tasks.into_iter().filter(|task| task.outcome.is_none());
        unfinished.extend(running.map(|task| task.task_id));
        after = page.next;
        if after.is_none() {
            return Ok(unfinished);
        }
    }
}

/// Waits for tasks, and counts how they end.
async fn ends(client: &Client, tasks: Vec<TaskId>) -> Result<BTreeMap<&'static str, usize>> {
    let tasks = stream::iter(tasks).map(|id| client.wait(id)).buffer_unordered(WAITING);
    let count = |mut ended: BTreeMap<_, _>, task: TaskView| async move {
        let word = task.outcome.map_or("unfinished", OutcomeKind::as_str);
        *ended.entry(word).or_default() += 1;
        Ok(ended)
    };
    Ok(tasks.try_fold(BTreeMap::new(), count).await?)
}

/// What was done, in words that promise no more than is known.
fn in_words(answer: &CancelAnswer) -> String {
    let CancelAnswer { cancelled, asked, finished, unknown, effects: _ } = answer;
    let counts = [
        (*cancelled, "cancelled"),
        (*asked, "asked to stop"),
        (*finished, "ended before"),
        (*unknown, "unknown"),
    ];
    let parts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if parts.is_empty() { "there are no tasks".to_owned() } else { parts.join(", ") }
}

fn ends_in_words(ended: &BTreeMap<&'static str, usize>) -> String {
    let parts: Vec<_> = ended
        .iter()
        .map(|(word, count)| match *word {
            "cancelled" => format!("{count} stopped"),
            word => format!("{count} {word} before they could be stopped"),
        })
        .collect();
    if parts.is_empty() { "none is running".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_said() {
        let answer = |[cancelled, asked, finished, unknown]: [usize; 4]| CancelAnswer {
            cancelled,
            asked,
            finished,
            unknown,
            effects: Vec::new(),
        };
        for (counts, text) in [
            ([3, 0, 0, 0], "3 cancelled"),
            ([3, 2, 1, 4], "3 cancelled, 2 asked to stop, 1 ended before, 4 unknown"),
            ([0; 4], "there are no tasks"),
        ] {
            assert_eq!(in_words(&answer(counts)), text);
        }
        let ended = BTreeMap::from([("cancelled", 2), ("returned", 1)]);
        assert_eq!(ends_in_words(&ended), "2 stopped, 1 returned before they could be stopped");
        assert_eq!(ends_in_words(&BTreeMap::new()), "none is running");
    }

    #[test]
    fn only_those_that_were_asked_are_waited_for() {
        let ids = [1, 2, 3].map(TaskId::from_u128);
        let effects = vec![CancelEffect::Asked, CancelEffect::Cancelled, CancelEffect::Asked];
        assert_eq!(asked(&ids, &CancelAnswer { effects, ..CancelAnswer::default() }), [ids[0], ids[2]]);
    }
}
