//! Stops the tasks of handles that were dropped, if that was asked for.

use std::sync::Arc;

use funcx_core::model::{TaskId, limit};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};

use super::api::{Api, Repeat};
use super::handle::Accepted;
use crate::http::wire::{CancelAnswer, CancelRequest};

/// A handle that was dropped.
pub(super) enum Dropped {
    /// Its call is on its way to the service; the task is stopped as soon as its id is known.
    Submitting(oneshot::Receiver<Accepted>),
    /// Its task has this id.
    Accepted(TaskId),
}

/// Stops tasks until the last client and the last handle are gone. Handles that are dropped while a request is under way
/// go together into the next.
pub(super) async fn run(api: Arc<Api>, mut dropped: mpsc::UnboundedReceiver<Dropped>) {
    let mut submitting = FuturesUnordered::new();
    let mut tasks = Vec::new();
    let mut open = true;
    while open || !submitting.is_empty() {
        tokio::select! {
            one = dropped.recv(), if open => match one {
                Some(Dropped::Submitting(accepted)) => submitting.push(accepted),
                Some(Dropped::Accepted(id)) => tasks.push(id),
                None => open = false,
            },
            // A call that was refused needs no stop.
            Some(accepted) = submitting.next(), if !submitting.is_empty() => {
                tasks.extend(accepted.ok().and_then(Result::ok).map(|(id, _)| id));
            }
        }
        while tasks.len() < limit::MAX_SUBMIT_TASKS
            && let Ok(one) = dropped.try_recv()
        {
            match one {
                Dropped::Submitting(accepted) => submitting.push(accepted),
                Dropped::Accepted(id) => tasks.push(id),
            }
        }
        if !tasks.is_empty() {
            let count = tasks.len();
            if let Err(error) = cancel(&api, std::mem::take(&mut tasks)).await {
                tracing::warn!(tasks = count, %error, "cannot stop the tasks of handles that were dropped");
            }
        }
    }
}

/// Stops tasks, in as few requests as they fit into.
pub(super) async fn cancel(api: &Api, tasks: Vec<TaskId>) -> funcx_core::Result<CancelAnswer> {
    let mut all = CancelAnswer::default();
    for part in tasks.chunks(limit::MAX_SUBMIT_TASKS) {
        let body = CancelRequest { task_ids: Some(part.to_vec()), task_group_id: None };
        let answer: CancelAnswer = api.post("cancel tasks", "/v1/cancel", &body, Repeat::Freely).await?;
        all.cancelled += answer.cancelled;
        all.asked += answer.asked;
        all.finished += answer.finished;
        all.unknown += answer.unknown;
        all.effects.extend(answer.effects);
    }
    Ok(all)
}
