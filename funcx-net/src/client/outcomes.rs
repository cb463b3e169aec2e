//! The outcomes of a task group as the service streams them.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use funcx_core::model::TaskGroupId;
use funcx_core::{Error, ErrorKind, Result};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use reqwest::Response;

use super::TaskView;
use super::api::Api;
use super::event_parser::{Event, EventParser};

/// A connection on which nothing comes for this long, not even the comments with which the service keeps it alive, is
/// given up for a new one.
const SILENCE: Duration = Duration::from_secs(60);

const OPERATION: &str = "stream outcomes";

/// The outcomes of a task group in the order in which the service had them: those there are already, then those that
/// come. The stream has no end, because a group can always get more tasks.
///
/// A connection that breaks is opened again where it ended. After an `Err` the stream can be polled on: it tries anew.
///
/// **Bounds.** One outcome is read ahead; what is not polled waits in the connection and then at the service.
///
/// **Errors.** Those of [`Client`](super::Client); `Unavailable` and `TimedOut` only after all attempts of the
/// [`RetryPolicy`](super::RetryPolicy).
pub struct Outcomes {
    events: BoxStream<'static, (Option<String>, Result<TaskView>)>,
    cursor: Option<String>,
}

impl Outcomes {
    pub(super) fn new(api: Arc<Api>, group: TaskGroupId, after: Option<String>) -> Self {
        let reader = Reader {
            api,
            path: format!("/v1/task_groups/{group}/events"),
            cursor: after.clone(),
            answer: None,
            parser: EventParser::default(),
            failures: 0,
        };
        let events = stream::unfold(reader, |mut reader| async move {
            let outcome = reader.next().await;
            Some(((reader.cursor.clone(), outcome), reader))
        });
        Self { events: events.boxed(), cursor: after }
    }

    /// Where the stream stands after the outcome that was polled last. Give it to
    /// [`Client::outcomes`](super::Client::outcomes) to go on from here, in this process or another.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

impl Stream for Outcomes {
    type Item = Result<TaskView>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(context).map(|event| {
            let (cursor, outcome) = event?;
            self.cursor = cursor;
            Some(outcome)
        })
    }
}

impl fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

struct Reader {
    api: Arc<Api>,
    path: String,
    cursor: Option<String>,
    answer: Option<Response>,
    parser: EventParser,
    /// Attempts since the last byte came.
    failures: u32,
}

impl Reader {
    async fn next(&mut self) -> Result<TaskView> {
        loop {
            match self.next_event().await {
                Ok(event) => {
                    if let Some(outcome) = self.on_event(&event)? {
                        return Ok(outcome);
                    }
                }
                Err(error) => {
                    self.close();
                    self.failures += 1;
                    let pause =
                        self.api.retry.after(self.failures, error).inspect_err(|_| self.failures = 0)?;
                    tracing::debug!(
                        path = self.path,
                        ?pause,
                        "the stream of outcomes broke; opening it again"
                    );
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn on_event(&mut self, event: &Event) -> Result<Option<TaskView>> {
        match event.name.as_str() {
            "outcome" => serde_json::from_slice(&event.data).map(Some).map_err(|error| {
                Error::new(ErrorKind::Protocol, OPERATION, "an event is not understood").with_source(error)
            }),
            // Notices, of which none concerns us: after "lagged" the service goes on from its store by itself.
            _ => Ok(None),
        }
    }

    async fn next_event(&mut self) -> Result<Event> {
        loop {
            let event = self.parser.poll_event()?;
            if !self.parser.last_id().is_empty() {
                self.cursor = Some(self.parser.last_id().to_owned());
            }
            if let Some(event) = event {
                return Ok(event);
            }
            if self.answer.is_none() {
                let opened = self.api.open_events(OPERATION, &self.path, self.cursor.as_deref()).await?;
                self.answer = Some(opened);
            }
            // It was put there above.
            let Some(answer) = &mut self.answer else { continue };
            let piece = tokio::time::timeout(SILENCE, answer.chunk())
                .await
                .map_err(|_| self.broken(ErrorKind::TimedOut, "the service has gone silent"))?
                .map_err(|error| {
                    self.broken(ErrorKind::Unavailable, "the connection broke")
                        .with_source(error.without_url())
                })?
                .ok_or_else(|| self.broken(ErrorKind::Unavailable, "the service ended the stream"))?;
            self.failures = 0;
            self.parser.handle_bytes(&piece);
        }
    }

    /// What was read of an event that did not come whole is read again by the next connection.
    fn close(&mut self) {
        self.answer = None;
        self.parser = EventParser::default();
    }

    fn broken(&self, kind: ErrorKind, message: &'static str) -> Error {
        Error::new(kind, OPERATION, message).with_context("service", self.api.service())
    }
}
