//! Suite for the [`Provider`] contract.

use crate::contract::{BlockRequest, Command, JobState, JobStatus, Provider};
use crate::model::{BlockId, ErrorKind, JobId};

/// Commands for blocks of one node.
#[derive(Debug, Clone)]
pub struct Samples {
    /// Ends with exit code 0 soon.
    pub succeeds: Command,
    /// Ends with another exit code soon.
    pub fails: Command,
    /// Runs until it is stopped.
    pub lasts: Command,
}

/// Checks everything that the contract promises. Submits a handful of blocks and gives all of them back.
///
/// # Panics
/// With the promise that is broken. A job that never ends is a test that hangs; run the suite under a timeout.
pub async fn suite(provider: &dyn Provider, samples: &Samples) {
    let capability = provider.capability();
    assert!(!capability.name.is_empty() && capability.max_nodes > 0 && capability.max_status_batch > 0);
    jobs_end_as_they_should(provider, samples).await;
    running_jobs_are_cancelled(provider, samples).await;
    unknown_jobs_are_unlisted(provider).await;
    what_cannot_be_is_refused(provider, samples).await;
}

fn block(id: u32, nodes: u32, command: &Command) -> BlockRequest {
    BlockRequest { block: BlockId(id), nodes, walltime: None, command: command.clone() }
}

async fn submit(provider: &dyn Provider, id: u32, command: &Command) -> JobId {
    provider.submit(&block(id, 1, command)).await.expect("the provider takes a block of one node")
}

/// The state of one job, which must be the only entry of the answer.
async fn status(provider: &dyn Provider, job: &JobId) -> JobStatus {
    let mut states = provider.status(std::slice::from_ref(job)).await.expect("the resource answers");
    let status = states.remove(job).expect("every requested job has an entry");
    assert!(states.is_empty(), "entries that nobody asked for: {states:?}");
    status
}

async fn end_of(provider: &dyn Provider, job: &JobId) -> JobStatus {
    loop {
        // Asked for before the state, so that an end in between is not missed.
        let changed = provider.changed();
        let status = status(provider, job).await;
        if status.state.is_final() {
            return status;
        }
        changed.await;
    }
}

async fn jobs_end_as_they_should(provider: &dyn Provider, samples: &Samples) {
    let succeeds = submit(provider, 1, &samples.succeeds).await;
    let fails = submit(provider, 2, &samples.fails).await;
    assert_ne!(succeeds, fails, "two jobs with one name");
    assert_eq!(end_of(provider, &succeeds).await.state, JobState::Completed);
    let failed = end_of(provider, &fails).await;
    assert_eq!(failed.state, JobState::Failed);
    assert!(failed.reason.is_some_and(|reason| !reason.is_empty()), "a failure without a reason");

    let both = [succeeds.clone(), fails];
    let states = provider.status(&both).await.expect("the resource answers");
    assert!(
        states.keys().eq(both.iter().collect::<std::collections::BTreeSet<_>>()),
        "not one entry per job"
    );
    assert!(provider.status(&[]).await.expect("asking for nothing is no error").is_empty());
    provider
        .cancel(std::slice::from_ref(&succeeds))
        .await
        .expect("cancelling a job that has ended is no error");
    assert_eq!(
        status(provider, &succeeds).await.state,
        JobState::Completed,
        "cancelling changed how a job ended"
    );
}

async fn running_jobs_are_cancelled(provider: &dyn Provider, samples: &Samples) {
    let job = submit(provider, 3, &samples.lasts).await;
    let other = submit(provider, 4, &samples.lasts).await;
    assert!(!status(provider, &job).await.state.is_final());
    provider.cancel(std::slice::from_ref(&job)).await.expect("a running job can be cancelled");
    provider.cancel(std::slice::from_ref(&job)).await.expect("cancelling twice is no error");
    assert_eq!(end_of(provider, &job).await.state, JobState::Cancelled);
    assert!(!status(provider, &other).await.state.is_final(), "a job was cancelled for another");
    provider.cancel(std::slice::from_ref(&other)).await.expect("a running job can be cancelled");
    assert_eq!(end_of(provider, &other).await.state, JobState::Cancelled);
}

async fn unknown_jobs_are_unlisted(provider: &dyn Provider) {
    let job = JobId("999999999".to_owned());
    assert_eq!(status(provider, &job).await.state, JobState::Unlisted);
    provider.cancel(std::slice::from_ref(&job)).await.expect("cancelling an unknown job is no error");
    provider.cancel(&[]).await.expect("cancelling nothing is no error");
}

async fn what_cannot_be_is_refused(provider: &dyn Provider, samples: &Samples) {
    if let Some(nodes) = provider.capability().max_nodes.checked_add(1) {
        let request = block(5, nodes, &samples.succeeds);
        let error = provider.submit(&request).await.expect_err("a block with more nodes than there can be");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
