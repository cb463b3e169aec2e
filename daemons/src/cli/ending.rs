//! How the end of a task is shown.

use std::process::ExitCode;

use anyhow::Result;
use funcx_core::model::{FunctionKind, OutcomeKind};
use funcx_net::client::TaskView;
use serde::Deserialize;
use serde_json::Value;

use super::output::{Output, print, print_aside};
use crate::exit::Exit;

/// What a command that ran gives.
#[derive(Deserialize)]
struct ShellResult {
    returncode: i64,
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
}

/// Prints what the task returned on standard output; what it wrote, and why it did not return, on standard error.
pub(super) fn show(output: Output, task: &TaskView, kind: Option<FunctionKind>) -> Result<ExitCode> {
    let command = (kind == Some(FunctionKind::Shell)).then(|| task.value::<ShellResult>().ok()).flatten();
    if output.is_json() {
        output.show(&json(task), |_| String::new())?;
    } else {
        print_aside(&task.stdout)?;
        print_aside(&task.stderr)?;
        match &command {
            Some(command) => {
                print(&command.stdout)?;
                print_aside(&command.stderr)?;
            }
            None => show_result(task)?,
        }
    }
    let failed =
        task.outcome != Some(OutcomeKind::Returned) || command.is_some_and(|command| command.returncode != 0);
    Ok(if failed { Exit::TaskFailed.into() } else { ExitCode::SUCCESS })
}

/// The task in the JSON of the service, with a `result` even if that is `null`.
pub(super) fn json(task: &TaskView) -> Value {
    let mut value = serde_json::to_value(task).unwrap_or_default();
    if let (Some(fields), Some("null")) = (value.as_object_mut(), task.result_json()) {
        fields.insert("result".to_owned(), Value::Null);
    }
    value
}

fn show_result(task: &TaskView) -> Result<()> {
    if let Some(result) = task.result_json() {
        return match serde_json::from_str(result) {
            Ok(Value::String(text)) => print(&text),
            _ => print(result),
        };
    }
    if let Some(bytes) = &task.result_base64 {
        return print(bytes);
    }
    print_aside(&reason(task))
}

/// Why a task did not return, with what the user's code said about it.
pub(super) fn reason(task: &TaskView) -> String {
    let ended = task.outcome.map_or_else(|| task.status.clone(), |outcome| outcome.to_string());
    match &task.failure {
        Some(failure) => {
            let mut text = failure.traceback.clone();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text + &format!("task {} {ended}: {}: {}", task.task_id, failure.code, failure.message)
        }
        None => format!("task {} {ended}", task.task_id),
    }
}
