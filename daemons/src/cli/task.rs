//! `funcx task`

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Subcommand};
use funcx_core::model::{TaskGroupId, TaskId, limit};
use funcx_net::client::TaskView;

use super::common::Common;
use super::output::{age, fields, print_aside, short, table};
use super::which::Which;
use super::{cancel, ending, purge, timeline};
use crate::exit::Exit;

/// What to do with tasks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List your tasks, oldest first
    List(List),
    /// Show where a task is, or how it ended
    Show {
        /// Id of the task
        id: TaskId,
    },
    /// Show what happened to a task: when, and who did it
    Timeline {
        /// Id of the task
        id: TaskId,
    },
    /// Print what a task returned
    Result {
        /// Id of the task
        id: TaskId,
        /// Wait until it has ended
        #[arg(long)]
        wait: bool,
    },
    /// Stop tasks, wherever they are
    Cancel(cancel::Options),
    /// Forget tasks that have ended, with their arguments and results
    Purge(Which),
}

/// Which tasks to list.
#[derive(Debug, Args)]
pub struct List {
    /// Only those of this task group
    #[arg(long, value_name = "ID")]
    pub group: Option<TaskGroupId>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=limit::MAX_PAGE_TASKS as i64))]
    pub limit: u32,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
}

/// Does what the command line says.
pub(super) async fn run(common: &Common, command: Command) -> Result<ExitCode> {
    match command {
        Command::List(options) => list(common, options).await,
        Command::Show { id } => {
            let task = common.client()?.task(id).await?;
            common.output().show(&ending::json(&task), |_| described(&task))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Timeline { id } => timeline::show(common, id).await,
        Command::Result { id, wait } => result(common, id, wait).await,
        Command::Cancel(options) => cancel::run(common, options).await,
        Command::Purge(options) => purge::run(common, options).await,
    }
}

async fn list(common: &Common, List { group, limit, after }: List) -> Result<ExitCode> {
    let page = common.client()?.tasks(group, after.as_deref(), limit as usize).await?;
    common.output().show(&page, |page| {
        table(
            ["ID", "STATUS", "ACCEPTED", "TOOK", "FUNCTION"],
            page.tasks.iter().map(row),
            "there are no tasks",
        )
    })?;
    if let (Some(next), false) = (page.next, common.json) {
        print_aside(&format!("there are more: --after {next}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn result(common: &Common, id: TaskId, wait: bool) -> Result<ExitCode> {
    let client = common.client()?;
    // The first answer comes soon or not at all; after it the service may go away for a while.
    let mut task = client.task(id).await?;
    if wait && task.outcome.is_none() {
        task = common.patient_client()?.wait(id).await?;
    }
    let kind = match task.outcome {
        // Whether the value is the result of a command, which is shown as such, only the function says; it may be gone.
        Some(_) => client.function(task.function_id).await.ok().map(|function| function.kind),
        None => {
            print_aside(&format!("task {id} has not ended: {}; --wait waits for it", task.status))?;
            return Ok(Exit::WrongState.into());
        }
    };
    ending::show(common.output(), &task, kind)
}

fn row(task: &TaskView) -> [String; 5] {
    [task.task_id.to_string(), status(task), age(task.accepted), took(task), task.function_id.to_string()]
}

fn status(task: &TaskView) -> String {
    task.outcome.map_or_else(|| task.status.clone(), |outcome| outcome.to_string())
}

/// Time from acceptance to the outcome.
fn took(task: &TaskView) -> String {
    let seconds = task.completed.map(|completed| completed - task.accepted);
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).map(short).unwrap_or_default()
}

fn described(task: &TaskView) -> String {
    let about = fields([
        ("id", task.task_id.to_string()),
        ("status", status(task)),
        ("function", task.function_id.to_string()),
        ("endpoint", task.endpoint_id.to_string()),
        ("task group", task.task_group_id.to_string()),
        ("attempt", task.attempt.map(|attempt| attempt.to_string()).unwrap_or_default()),
        ("accepted", age(task.accepted)),
        ("took", took(task)),
        ("result", task.result_json().or(task.result_base64.as_deref()).unwrap_or_default().to_owned()),
        ("worker", task.worker.as_ref().map(|json| json.get().to_owned()).unwrap_or_default()),
    ]);
    let sections = [
        ("standard output", task.stdout.clone()),
        ("standard error", task.stderr.clone()),
        ("failure", task.failure.as_ref().map(|_| ending::reason(task)).unwrap_or_default()),
    ];
    sections
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .fold(about, |text, (name, section)| format!("{text}\n{name}:\n{}\n", section.trim_end()))
}
