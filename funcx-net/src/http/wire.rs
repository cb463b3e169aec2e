//! JSON of our own routes under `/v1`, and the body of every error. The same types serve clients in Rust.
//!
//! Ids are UUIDs in lower case. Absent fields are left out. Times in seconds are since the Unix epoch.

use std::collections::BTreeMap;

use funcx_core::model::{
    EndpointId, FunctionId, FunctionKind, IdentityId, Memoize, OutcomeKind, TaskGroupId, TaskId, limit,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Always `Failed`.
    pub status: String,
    /// A word that programs can test.
    pub code: String,
    /// What went wrong, for people.
    pub message: String,
    /// The same text; older clients show this one.
    pub reason: String,
    /// Always empty.
    pub error_args: Vec<String>,
    /// The HTTP status.
    pub http_status_code: u16,
}

/// Whether a service is alive, or takes work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    /// Whether it is.
    pub ok: bool,
    /// What is in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// A function to register.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionRegistration {
    /// Name for people.
    pub name: String,
    /// `native`, `python`, `shell` or `globus-compute`.
    #[schema(value_type = String)]
    pub kind: FunctionKind,
    /// Name of the callable inside the code (python), or of the registered Rust function (native).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Source text (python), command template (shell) or one framed buffer (globus-compute).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether everybody may use it.
    #[serde(default)]
    pub public: bool,
    /// Group whose members may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Uuid>,
    /// Whether a call may be answered with the value of an equal one, unless the call says so itself: `never`; `own`, with
    /// values of the caller's own calls; `shared`, with those of anybody who may use the function, at the same endpoint.
    #[serde(default, skip_serializing_if = "is_never")]
    #[schema(value_type = String)]
    pub memoize: Memoize,
    /// A JSON object that is kept with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Box<RawValue>>,
}

fn is_never(memoize: &Memoize) -> bool {
    *memoize == Memoize::Never
}

/// A function that was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionRegistered {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub function_id: FunctionId,
    /// Hash of its code, in hexadecimal digits.
    pub hash: String,
}

/// A function.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub function_id: FunctionId,
    /// Name for people.
    pub name: String,
    /// Kind of its code.
    #[schema(value_type = String)]
    pub kind: FunctionKind,
    /// Name inside the code.
    pub entry: String,
    /// Its code; not in listings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Hash of its code, in hexadecimal digits.
    pub hash: String,
    /// Description for people.
    pub description: String,
    /// Whose it is.
    #[schema(value_type = Uuid)]
    pub owner: IdentityId,
    /// Whether everybody may use it.
    pub public: bool,
    /// Group whose members may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Uuid>,
    /// Whether its calls may be answered with values of equal ones: `never`, `own` or `shared`.
    #[serde(default)]
    #[schema(value_type = String)]
    pub memoize: Memoize,
    /// What the client said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Box<RawValue>>,
    /// When it was registered, in seconds.
    pub created: f64,
}

/// A page of functions.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FunctionPage {
    /// In order of id.
    pub functions: Vec<FunctionView>,
    /// What to give as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Tasks to run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// Where.
    #[schema(value_type = Uuid)]
    pub endpoint_id: EndpointId,
    /// The group they shall belong to; the service makes one if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub task_group_id: Option<TaskGroupId>,
    /// Calls by function.
    pub tasks: Vec<Calls>,
    /// Whether the value of an equal call will do: same function, arguments and options. As the function was registered if
    /// it is absent. Failures are never remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memoize: Option<bool>,
    /// What each of them asks for.
    #[serde(flatten)]
    pub how: Resources,
    /// A JSON object that only the worker reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub options: Option<BTreeMap<String, serde_json::Value>>,
}

/// Calls of one function.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Calls {
    /// The function.
    #[schema(value_type = Uuid)]
    pub function_id: FunctionId,
    /// Arguments of each call: any JSON value for native functions, `{"args": [...], "kwargs": {...}}` for python and
    /// shell, a string of two framed buffers for globus-compute.
    #[schema(value_type = Vec<serde_json::Value>)]
    pub arguments: Vec<Box<RawValue>>,
    /// Calls in one task, from 1 to 65536; the last task may have fewer. Each task then maps the function over its
    /// arguments, in order and in one worker: one id, one outcome, one walltime. A call for each task if absent.
    #[serde(default, deserialize_with = "chunk", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65536)]
    pub chunk: Option<u32>,
}

/// A number of calls, if it is one that a number of calls could be.
fn chunk<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<serde_json::Number>::deserialize(from)?;
    let calls = |number: serde_json::Number| {
        let calls = number.as_u64().and_then(|calls| u32::try_from(calls).ok());
        calls.ok_or_else(|| {
            let most = limit::MAX_CHUNK_CALLS;
            D::Error::custom(format!("`chunk` must be from 1 to {most} (MAX_CHUNK_CALLS), not {number}"))
        })
    };
    number.map(calls).transpose()
}

/// What a task asks for. Each absent field asks for nothing special.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Resources {
    /// Longest time it may run, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walltime_seconds: Option<f64>,
    /// Attempts in all when infrastructure is lost; 1 is "at most once".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Place among the caller's own tasks at the endpoint, from -128 to 127: higher ones go first. 0 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Longest time from acceptance until it begins to run, in seconds; after that it ends as timed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<f64>,
    /// Longest time from acceptance until it has ended, in seconds; after that it is stopped and ends as timed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<f64>,
    /// Cores on each node; fractions are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// Memory on each node, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Accelerators on each node; fractions are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerators: Option<f64>,
    /// Kind of accelerator, in the site's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator_kind: Option<String>,
    /// Nodes that it spans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Ranks on each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks_per_node: Option<u32>,
    /// Environment of the endpoint to run in, by its name there; the default one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Labels that its manager must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// Tasks that were accepted, and are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmitAnswer {
    /// The group they belong to.
    #[schema(value_type = Uuid)]
    pub task_group_id: TaskGroupId,
    /// Their ids, in the order of the calls and arguments of the request.
    #[schema(value_type = Vec<Vec<Uuid>>)]
    pub task_ids: Vec<Vec<TaskId>>,
}

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub task_id: TaskId,
    /// The group it belongs to.
    #[schema(value_type = Uuid)]
    pub task_group_id: TaskGroupId,
    /// Where it runs.
    #[schema(value_type = Uuid)]
    pub endpoint_id: EndpointId,
    /// What it calls.
    #[schema(value_type = Uuid)]
    pub function_id: FunctionId,
    /// `waiting-for-endpoint`, `queued`, `dispatched`, `running` or `finished`.
    pub status: String,
    /// How it ended: `returned`, `raised`, `timed-out`, `cancelled` or `lost`; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub outcome: Option<OutcomeKind>,
    /// Whether it maps its function over many arguments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub map: bool,
    /// Its value, if it returned: JSON, or a string with the serialized value for globus-compute functions. That of a map is
    /// `{"values": [...], "failures": {"3": {"code": ..., "message": ..., "traceback": ...}}}`: what each call returned, in
    /// order, or `null` if it failed, and why calls failed by their place in `values`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub result: Option<Box<RawValue>>,
    /// Its value in base64, if it returned something that is not JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_base64: Option<String>,
    /// Why it did not return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureView>,
    /// End of what it wrote to standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// End of what it wrote to standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Number of the attempt that ended; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What is known about the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub worker: Option<Box<RawValue>>,
    /// When it was accepted, in seconds.
    pub accepted: f64,
    /// When the service had its outcome, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<f64>,
    /// When it passed where, in nanoseconds since the Unix epoch: `accepted`, `service-sent`, `endpoint-sent`,
    /// `manager-sent`, `started`, `ended`, `manager-returned`, `endpoint-returned`.
    #[serde(default)]
    pub stamps: BTreeMap<String, u64>,
}

/// Why a task did not return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureView {
    /// A word that programs can test.
    pub code: String,
    /// One line for people.
    pub message: String,
    /// What the user's code printed about it.
    #[serde(default)]
    pub traceback: String,
}

/// What happened to a task, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub task_id: TaskId,
    /// Where it is, in the words of a task.
    pub status: String,
    /// How it ended; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub outcome: Option<OutcomeKind>,
    /// The trace that it belongs to, in 32 hexadecimal digits; the logs of all processes have it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What happened. The hops of the last attempt stand in the order of the way down and up; `at` may go back where
    /// clocks of two machines differ.
    pub transitions: Vec<TransitionView>,
}

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransitionView {
    /// When, in nanoseconds since the Unix epoch, by the clock of the actor.
    pub at: u64,
    /// `accepted`, `service-sent`, `endpoint-sent`, `manager-sent`, `started`, `ended`, `manager-returned`,
    /// `endpoint-returned`, `completed`, `attempt-lost`, `lease-lost` or `cancel-requested`. There may be others later.
    pub what: String,
    /// The attempt that it happened to, from 1; absent for what concerns the task as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Who did it, in words for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// More about it, in words for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A page of tasks.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TaskPage {
    /// Oldest first.
    pub tasks: Vec<TaskView>,
    /// What to give as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Tasks to cancel or to purge: one of the two fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// These.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Uuid>>)]
    pub task_ids: Option<Vec<TaskId>>,
    /// All of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub task_group_id: Option<TaskGroupId>,
}

/// What a cancel did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct CancelAnswer {
    /// Tasks that waited: they have ended as cancelled, and will not run.
    pub cancelled: usize,
    /// Tasks that were at their endpoints, which are told to stop them. Their outcomes say whether that came in time.
    pub asked: usize,
    /// Tasks that had ended before.
    pub finished: usize,
    /// Tasks that are not there, or not the caller's.
    pub unknown: usize,
    /// What became of each of the `task_ids`, in the same order; empty for a group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<CancelEffect>,
}

/// What a cancel did to a task; each is one of the counts of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CancelEffect {
    /// It waited, and has ended.
    Cancelled,
    /// Its endpoint is told to stop it.
    Asked,
    /// It had ended before.
    Finished,
    /// It is not there, or not the caller's.
    Unknown,
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PurgeAnswer {
    /// Tasks that had ended, and are forgotten with their arguments, results and events.
    pub purged: usize,
    /// Tasks that have not ended, and stay.
    pub unfinished: usize,
    /// Tasks that are not there, or not the caller's.
    pub unknown: usize,
}

/// An endpoint to register.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointRegistration {
    /// The id it has already; a new one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub endpoint_id: Option<EndpointId>,
    /// Name for people.
    pub name: String,
    /// Whether everybody may run on it.
    #[serde(default)]
    pub public: bool,
    /// Group whose members may run on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Uuid>,
    /// The only functions that may run on it; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Uuid>>)]
    pub allowed_functions: Option<Vec<FunctionId>>,
    /// A JSON object that is kept with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Box<RawValue>>,
}

/// An endpoint that was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointRegistered {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub endpoint_id: EndpointId,
}

/// An endpoint.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EndpointView {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub endpoint_id: EndpointId,
    /// Name for people.
    pub name: String,
    /// Whose it is.
    #[schema(value_type = Uuid)]
    pub owner: IdentityId,
    /// Whether everybody may run on it.
    pub public: bool,
    /// Group whose members may run on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Uuid>,
    /// The only functions that may run on it; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Uuid>>)]
    pub allowed_functions: Option<Vec<FunctionId>>,
    /// What it says about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Box<RawValue>>,
    /// When it was registered, in seconds.
    pub created: f64,
    /// Whether it is connected.
    pub connected: bool,
    /// Managers that are connected to it.
    pub managers: u32,
    /// Worker slots that it has.
    pub workers: u32,
    /// Accepted tasks that have not been given to it.
    pub queued: u64,
    /// Tasks that have been given to it and have not ended.
    pub leased: u64,
}

/// Endpoints.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EndpointList {
    /// In order of id.
    pub endpoints: Vec<EndpointView>,
}
