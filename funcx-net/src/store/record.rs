//! What the values look like.
//!
//! What people may want to read, or what may get more fields, is JSON; what there are millions of is packed. Packed
//! records begin with a version, so that a later program can tell an old one from a new one.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use funcx_core::contract::{
    Access, Backlog, DueReason, EndpointRecord, FunctionRecord, OutcomeRecord, Submission,
};
use funcx_core::model::{
    Accelerators, AttemptId, EndpointId, Error, ErrorKind, Function, FunctionBody, FunctionHash, FunctionId,
    FunctionKind, Hop, HopStamps, IdentityId, Memoize, Outcome, OutcomeKind, Result, Shape, Target,
    TaskEvent, TaskEventKind, TaskGroupId, TaskId, TaskLimits, TaskSpec, Timestamp, TraceContext,
    limit::MAX_TASK_EVENTS,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::table::Place;

/// In the place of a task that was forgotten. No task has this id: ids are version 4 UUIDs.
const NO_TASK: [u8; 16] = [0; 16];
/// Version of every packed record.
const VERSION: u8 = 2;

/// A registered function without its code.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredFunction {
    pub(super) hash: FunctionHash,
    name: String,
    description: String,
    pub(super) owner: IdentityId,
    access: StoredAccess,
    #[serde(default)]
    memoize: Memoize,
    metadata: String,
    created: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredEndpoint {
    name: String,
    owner: IdentityId,
    access: StoredAccess,
    allowed_functions: Option<Vec<FunctionId>>,
    metadata: String,
    created: Timestamp,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredAccess {
    Private,
    Group(Uuid),
    Public,
}

/// What tasks share, but for the trace: that differs from one submission to the next.
#[derive(Debug, Serialize, Deserialize)]
struct StoredSpec {
    function: FunctionHash,
    milli_cores: u32,
    memory_bytes: u64,
    accelerators: u32,
    accelerator_kind: Option<String>,
    nodes: u32,
    ranks_per_node: u32,
    walltime: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    container: Option<String>,
    labels: Option<Vec<String>>,
    max_attempts: u32,
    priority: i8,
    ttl: Option<Duration>,
    deadline: Option<Duration>,
    owner: IdentityId,
    #[serde(default)]
    map: bool,
    #[serde(default)]
    memoize: Memoize,
}

/// What the tasks of one chunk have in common, and their ids.
pub(super) struct Chunk {
    pub(super) group: TaskGroupId,
    pub(super) function: FunctionId,
    pub(super) spec: [u8; 32],
    pub(super) trace: TraceContext,
    pub(super) accepted: Timestamp,
    pub(super) endpoint: EndpointId,
    pub(super) owner: IdentityId,
    ids: Bytes,
}

/// Where a task and its arguments are.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredTask {
    pub(super) place: Place,
    pub(super) queue: u64,
    pub(super) sequence: u64,
}

/// A task that waits for its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredPending {
    pub(super) task: TaskId,
    pub(super) place: Place,
    /// Bytes of its arguments.
    pub(super) bytes: u32,
    /// The next attempt.
    pub(super) attempt: u32,
    /// Earlier ones that do not count.
    pub(super) granted: u32,
    /// Whether an attempt has been recorded as begun.
    pub(super) begun: bool,
    /// When its time to live is over, unless that does not matter.
    pub(super) ttl: Option<Timestamp>,
    pub(super) deadline: Option<Timestamp>,
}

/// Where a task waits that has to end at a time.
pub(super) struct StoredDue {
    pub(super) queue: u64,
    pub(super) sequence: u64,
    pub(super) reason: DueReason,
}

/// A queue in which something waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredQueue {
    pub(super) number: u64,
    pub(super) backlog: Backlog,
}

/// The numbers that are free next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Numbers {
    /// Of a group of commits. So the number of the last group that counts can be told.
    pub(super) group: u64,
    pub(super) chunk: u64,
    pub(super) queue: u64,
}

impl From<Access> for StoredAccess {
    fn from(access: Access) -> Self {
        match access {
            Access::Private => Self::Private,
            Access::Group(group) => Self::Group(group),
            Access::Public => Self::Public,
        }
    }
}

impl From<StoredAccess> for Access {
    fn from(access: StoredAccess) -> Self {
        match access {
            StoredAccess::Private => Self::Private,
            StoredAccess::Group(group) => Self::Group(group),
            StoredAccess::Public => Self::Public,
        }
    }
}

impl StoredFunction {
    pub(super) fn encode(record: &FunctionRecord) -> Bytes {
        to_json(&Self {
            hash: record.function.hash(),
            name: record.name.clone(),
            description: record.description.clone(),
            owner: record.owner,
            access: record.access.into(),
            memoize: record.memoize,
            metadata: record.metadata.clone(),
            created: record.created,
        })
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        from_json(bytes, "function")
    }

    pub(super) fn into_record(self, id: FunctionId, function: std::sync::Arc<Function>) -> FunctionRecord {
        let Self { hash: _, name, description, owner, access, memoize, metadata, created } = self;
        FunctionRecord {
            id,
            function,
            name,
            description,
            owner,
            access: access.into(),
            memoize,
            metadata,
            created,
        }
    }
}

pub(super) fn encode_endpoint(record: &EndpointRecord) -> Bytes {
    to_json(&StoredEndpoint {
        name: record.name.clone(),
        owner: record.owner,
        access: record.access.into(),
        allowed_functions: record.allowed_functions.clone(),
        metadata: record.metadata.clone(),
        created: record.created,
    })
}

pub(super) fn decode_endpoint(id: EndpointId, bytes: &[u8]) -> Result<EndpointRecord> {
    let StoredEndpoint { name, owner, access, allowed_functions, metadata, created } =
        from_json(bytes, "endpoint")?;
    Ok(EndpointRecord { id, name, owner, access: access.into(), allowed_functions, metadata, created })
}

pub(super) fn encode_body(body: &FunctionBody) -> Bytes {
    let mut bytes = Vec::with_capacity(16 + body.entry.len() + body.code.len());
    bytes.put_u8(VERSION);
    put_part(&mut bytes, body.kind.as_str().as_bytes());
    put_part(&mut bytes, body.entry.as_bytes());
    bytes.put_slice(&body.code);
    bytes.into()
}

/// The function with this hash, which the code must have.
pub(super) fn decode_body(hash: FunctionHash, bytes: Bytes) -> Result<Function> {
    let mut fields = Fields::new("function body", bytes)?;
    let kind = fields.part()?;
    let kind = std::str::from_utf8(&kind).ok().and_then(FunctionKind::from_word);
    let kind = kind.ok_or_else(|| fields.damaged())?;
    let entry = String::from_utf8(fields.part()?.into()).map_err(|_| fields.damaged())?;
    let function = Function::new(FunctionBody { kind, entry, code: fields.rest() });
    if function.hash() == hash { Ok(function) } else { Err(damaged("function body")) }
}

/// Hash and bytes of what the tasks of a submission share.
pub(super) fn encode_spec(spec: &TaskSpec) -> ([u8; 32], Bytes) {
    let TaskSpec { function, shape, limits, owner, options, map, memoize, trace: _ } = spec;
    let json = to_json(&StoredSpec {
        function: function.hash(),
        milli_cores: shape.milli_cores,
        memory_bytes: shape.memory_bytes,
        accelerators: shape.accelerators.milli_count,
        accelerator_kind: shape.accelerators.kind.clone(),
        nodes: shape.nodes,
        ranks_per_node: shape.ranks_per_node,
        walltime: shape.walltime,
        environment: shape.environment.clone(),
        container: shape.container.clone(),
        labels: match &shape.target {
            Target::Anywhere => None,
            Target::Labels(labels) => Some(labels.clone()),
        },
        max_attempts: limits.max_attempts,
        priority: limits.priority,
        ttl: limits.ttl,
        deadline: limits.deadline,
        owner: *owner,
        map: *map,
        memoize: *memoize,
    });
    let mut bytes = Vec::with_capacity(5 + json.len() + options.len());
    bytes.put_u8(VERSION);
    put_part(&mut bytes, &json);
    // Opaque to us, so they stay the bytes they are.
    bytes.put_slice(options);
    (Sha256::digest(&bytes).into(), bytes.into())
}

/// What `bytes` say, with the trace of a submission, once the function has been found.
pub(super) fn decode_spec(
    bytes: Bytes,
    trace: TraceContext,
    function: impl FnOnce(FunctionHash) -> Result<std::sync::Arc<Function>>,
) -> Result<TaskSpec> {
    let mut fields = Fields::new("task specification", bytes)?;
    let stored: StoredSpec = from_json(&fields.part()?, "task specification")?;
    Ok(TaskSpec {
        function: function(stored.function)?,
        shape: Shape {
            milli_cores: stored.milli_cores,
            memory_bytes: stored.memory_bytes,
            accelerators: Accelerators { milli_count: stored.accelerators, kind: stored.accelerator_kind },
            nodes: stored.nodes,
            ranks_per_node: stored.ranks_per_node,
            walltime: stored.walltime,
            environment: stored.environment,
            container: stored.container,
            target: stored.labels.map_or(Target::Anywhere, Target::Labels),
        },
        limits: TaskLimits {
            max_attempts: stored.max_attempts,
            priority: stored.priority,
            ttl: stored.ttl,
            deadline: stored.deadline,
        },
        owner: stored.owner,
        options: fields.rest(),
        map: stored.map,
        memoize: stored.memoize,
        trace,
    })
}

impl Chunk {
    pub(super) fn encode(submission: &Submission, spec: [u8; 32], tasks: &[(TaskId, Bytes)]) -> Bytes {
        let mut bytes = Vec::with_capacity(128 + 16 * tasks.len());
        bytes.put_u8(VERSION);
        bytes.put_u128(submission.group.as_u128());
        bytes.put_u128(submission.function.as_u128());
        bytes.put_slice(&spec);
        bytes.put_u128(submission.spec.trace.trace_id);
        bytes.put_u64(submission.spec.trace.span_id);
        bytes.put_u8(submission.spec.trace.flags);
        bytes.put_u64(submission.accepted.as_nanos());
        bytes.put_u128(submission.endpoint.as_u128());
        bytes.put_u128(submission.spec.owner.as_u128());
        for (id, _) in tasks {
            bytes.put_u128(id.as_u128());
        }
        bytes.into()
    }

    /// The encoded chunk without the tasks at these places, and whether there are others in it.
    pub(super) fn without(encoded: &Bytes, places: &[u32]) -> Result<(Bytes, bool)> {
        let ids = Self::decode(encoded.clone())?.ids.len();
        let mut bytes = encoded.to_vec();
        let (ids, _) = bytes[encoded.len() - ids..].as_chunks_mut::<16>();
        for place in places {
            if let Some(id) = ids.get_mut(*place as usize) {
                *id = NO_TASK;
            }
        }
        let left = ids.iter().any(|id| *id != NO_TASK);
        Ok((bytes.into(), left))
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut fields = Fields::new("chunk of a submission", bytes)?;
        let chunk = Self {
            group: TaskGroupId::from_u128(fields.u128()?),
            function: FunctionId::from_u128(fields.u128()?),
            spec: fields.take()?,
            trace: TraceContext { trace_id: fields.u128()?, span_id: fields.u64()?, flags: fields.u8()? },
            accepted: Timestamp::from_nanos(fields.u64()?),
            endpoint: EndpointId::from_u128(fields.u128()?),
            owner: IdentityId::from_u128(fields.u128()?),
            ids: Bytes::new(),
        };
        if fields.bytes.len().is_multiple_of(16) {
            Ok(Self { ids: fields.rest(), ..chunk })
        } else {
            Err(fields.damaged())
        }
    }

    /// Its tasks, in order; `None` in the place of one that was forgotten.
    pub(super) fn ids(&self) -> impl ExactSizeIterator<Item = Option<TaskId>> {
        self.ids.as_chunks().0.iter().map(known_id)
    }

    /// The task at this place, unless it was forgotten.
    pub(super) fn id(&self, index: u32) -> Option<TaskId> {
        self.ids.as_chunks().0.get(index as usize).and_then(known_id)
    }
}

fn known_id(id: &[u8; 16]) -> Option<TaskId> {
    (*id != NO_TASK).then(|| TaskId::from_u128(u128::from_be_bytes(*id)))
}

impl StoredTask {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(32);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.place.chunk);
        bytes.put_u32(self.place.index);
        bytes.put_u64(self.queue);
        bytes.put_u64(self.sequence);
        bytes.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut fields = Fields::new("task", bytes)?;
        Ok(Self {
            place: Place { chunk: fields.u64()?, index: fields.u32()? },
            queue: fields.u64()?,
            sequence: fields.u64()?,
        })
    }
}

impl StoredPending {
    const BEGUN: u8 = 1;
    const TTL: u8 = 2;
    const DEADLINE: u8 = 4;

    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(56);
        bytes.put_u8(VERSION);
        bytes.put_u128(self.task.as_u128());
        bytes.put_u64(self.place.chunk);
        bytes.put_u32(self.place.index);
        bytes.put_u32(self.bytes);
        bytes.put_u32(self.attempt);
        bytes.put_u32(self.granted);
        let flag = |set: bool, flag| if set { flag } else { 0 };
        bytes.put_u8(
            flag(self.begun, Self::BEGUN)
                | flag(self.ttl.is_some(), Self::TTL)
                | flag(self.deadline.is_some(), Self::DEADLINE),
        );
        for at in [self.ttl, self.deadline].into_iter().flatten() {
            bytes.put_u64(at.as_nanos());
        }
        bytes.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut fields = Fields::new("queued task", bytes)?;
        let task = TaskId::from_u128(fields.u128()?);
        let place = Place { chunk: fields.u64()?, index: fields.u32()? };
        let (bytes, attempt, granted, flags) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u8()?);
        let mut time = |flag| match flags & flag {
            0 => Ok(None),
            _ => fields.u64().map(|nanos| Some(Timestamp::from_nanos(nanos))),
        };
        let (ttl, deadline) = (time(Self::TTL)?, time(Self::DEADLINE)?);
        Ok(Self { task, place, bytes, attempt, granted, begun: flags & Self::BEGUN != 0, ttl, deadline })
    }
}

impl StoredDue {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(18);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.queue);
        bytes.put_u64(self.sequence);
        bytes.put_u8(match self.reason {
            DueReason::TimeToLive => 0,
            DueReason::Deadline => 1,
        });
        bytes.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut fields = Fields::new("time of a task", bytes)?;
        let (queue, sequence) = (fields.u64()?, fields.u64()?);
        let reason = match fields.u8()? {
            0 => DueReason::TimeToLive,
            1 => DueReason::Deadline,
            _ => return Err(fields.damaged()),
        };
        Ok(Self { queue, sequence, reason })
    }
}

impl StoredQueue {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(25);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.number);
        bytes.put_u64(self.backlog.tasks);
        bytes.put_u64(self.backlog.bytes);
        bytes.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut fields = Fields::new("queue", bytes)?;
        Ok(Self { number: fields.u64()?, backlog: Backlog { tasks: fields.u64()?, bytes: fields.u64()? } })
    }
}

impl Numbers {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(25);
        bytes.put_u8(VERSION);
        bytes.put_u64(self.group);
        bytes.put_u64(self.chunk);
        bytes.put_u64(self.queue);
        bytes.into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        let mut fields = Fields::new("free numbers", bytes)?;
        Ok(Self { group: fields.u64()?, chunk: fields.u64()?, queue: fields.u64()? })
    }
}

/// Tasks of a chunk that have ended: the place of each, and when.
pub(super) fn encode_run(ended: &[(u32, Timestamp)]) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + 12 * ended.len());
    bytes.put_u8(VERSION);
    for (index, at) in ended {
        bytes.put_u32(*index);
        bytes.put_u64(at.as_nanos());
    }
    bytes.into()
}

pub(super) fn decode_run(bytes: &[u8]) -> Result<impl Iterator<Item = (u32, Timestamp)>> {
    let (entries, rest) = bytes.get(1..).unwrap_or_default().as_chunks::<12>();
    if bytes.first() != Some(&VERSION) || !rest.is_empty() {
        return Err(damaged("ends of tasks"));
    }
    Ok(entries.iter().map(|entry| {
        let [a, b, c, d, at @ ..] = *entry;
        (u32::from_be_bytes([a, b, c, d]), Timestamp::from_nanos(u64::from_be_bytes(at)))
    }))
}

/// The task whose value answers equal calls, and where it is.
pub(super) fn encode_memo(task: TaskId, place: Place) -> Bytes {
    let mut bytes = Vec::with_capacity(28);
    bytes.put_u128(task.as_u128());
    bytes.put_u64(place.chunk);
    bytes.put_u32(place.index);
    bytes.into()
}

pub(super) fn decode_memo(bytes: Bytes) -> Result<(TaskId, Place)> {
    let mut fields = Fields { record: "remembered value", bytes };
    let task = TaskId::from_u128(fields.u128()?);
    Ok((task, Place { chunk: fields.u64()?, index: fields.u32()? }))
}

/// How many tasks of a chunk have no outcome.
pub(super) fn encode_left(left: u32) -> Bytes {
    Bytes::copy_from_slice(&left.to_be_bytes())
}

pub(super) fn decode_left(bytes: &[u8]) -> Result<u32> {
    let left = bytes.first_chunk().ok_or_else(|| damaged("unfinished tasks of a chunk"))?;
    Ok(u32::from_be_bytes(*left))
}

/// Longest text of an event that is kept, in bytes.
const MAX_EVENT_TEXT_BYTES: usize = 1024;

/// Adds an event to those of a task; the oldest gives way when there are too many.
pub(super) fn push_event(events: &mut Vec<TaskEvent>, event: &TaskEvent) {
    let cut = |text: &str| text[..text.floor_char_boundary(MAX_EVENT_TEXT_BYTES)].to_owned();
    if events.len() >= MAX_TASK_EVENTS {
        events.remove(0);
    }
    events.push(TaskEvent { actor: cut(&event.actor), detail: cut(&event.detail), ..event.clone() });
}

pub(super) fn encode_events(events: &[TaskEvent]) -> Bytes {
    let mut bytes = Vec::with_capacity(64 * events.len());
    bytes.put_u8(VERSION);
    for event in events {
        bytes.put_u32(event.attempt.number);
        bytes.put_u64(event.at.as_nanos());
        put_part(&mut bytes, event.kind.as_str().as_bytes());
        put_part(&mut bytes, event.actor.as_bytes());
        put_part(&mut bytes, event.detail.as_bytes());
    }
    bytes.into()
}

pub(super) fn decode_events(task: TaskId, bytes: Bytes) -> Result<Vec<TaskEvent>> {
    let mut fields = Fields::new("events", bytes)?;
    let mut events = Vec::new();
    while !fields.bytes.is_empty() {
        let (number, at) = (fields.u32()?, Timestamp::from_nanos(fields.u64()?));
        let word = fields.part()?;
        let kind = EVENT_KINDS.into_iter().find(|kind| kind.as_str().as_bytes() == word);
        let kind = kind.ok_or_else(|| fields.damaged())?;
        let mut text = || String::from_utf8(fields.part()?.into()).map_err(|_| damaged("events"));
        let (actor, detail) = (text()?, text()?);
        events.push(TaskEvent { attempt: AttemptId { task, number }, at, kind, actor, detail });
    }
    Ok(events)
}

const EVENT_KINDS: [TaskEventKind; 4] =
    [TaskEventKind::Started, TaskEventKind::Lost, TaskEventKind::LeaseLost, TaskEventKind::CancelRequested];

pub(super) fn encode_outcome(record: &OutcomeRecord) -> Bytes {
    let OutcomeRecord { outcome, completed } = record;
    let mut bytes = Vec::with_capacity(96 + outcome.payload_bytes());
    bytes.put_u8(VERSION);
    bytes.put_u32(outcome.attempt);
    bytes.put_u8(match outcome.kind {
        OutcomeKind::Returned => 0,
        OutcomeKind::Raised => 1,
        OutcomeKind::TimedOut => 2,
        OutcomeKind::Cancelled => 3,
        OutcomeKind::Lost => 4,
    });
    bytes.put_u64(completed.as_nanos());
    // Their number stands in front of them: a later program may know more hops, and a call that was answered passed few.
    let stamps = outcome.stamps.to_nanos();
    let passed = stamps.iter().rposition(|stamp| *stamp != 0).map_or(0, |last| last + 1);
    let stamps = &stamps[..passed];
    bytes.put_u8(stamps.len() as u8);
    stamps.iter().for_each(|stamp| bytes.put_u64(*stamp));
    put_part(&mut bytes, &outcome.stdout);
    put_part(&mut bytes, &outcome.stderr);
    put_part(&mut bytes, &outcome.worker);
    bytes.put_slice(&outcome.payload);
    bytes.into()
}

pub(super) fn decode_outcome(task: TaskId, bytes: Bytes) -> Result<OutcomeRecord> {
    let mut fields = Fields::new("outcome", bytes)?;
    let attempt = fields.u32()?;
    let kind = match fields.u8()? {
        0 => OutcomeKind::Returned,
        1 => OutcomeKind::Raised,
        2 => OutcomeKind::TimedOut,
        3 => OutcomeKind::Cancelled,
        4 => OutcomeKind::Lost,
        _ => return Err(fields.damaged()),
    };
    let completed = Timestamp::from_nanos(fields.u64()?);
    let mut stamps = [0; Hop::ALL.len()];
    for place in 0..usize::from(fields.u8()?) {
        let stamp = fields.u64()?;
        if let Some(known) = stamps.get_mut(place) {
            *known = stamp;
        }
    }
    Ok(OutcomeRecord {
        outcome: Outcome {
            task,
            attempt,
            kind,
            stdout: fields.part()?,
            stderr: fields.part()?,
            worker: fields.part()?,
            payload: fields.rest(),
            stamps: HopStamps::from_nanos(stamps),
        },
        completed,
    })
}

fn put_part(bytes: &mut Vec<u8>, part: &[u8]) {
    // Every text and stream is bounded far below 4 GiB by the limits of the service.
    bytes.put_u32(u32::try_from(part.len()).expect("a part is shorter than 4 GiB"));
    bytes.put_slice(part);
}

fn to_json(record: &impl Serialize) -> Bytes {
    serde_json::to_vec(record).expect("a struct of strings and numbers has a JSON form").into()
}

fn from_json<T: DeserializeOwned>(bytes: &[u8], record: &'static str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| damaged(record).with_source(error))
}

/// A record that is there cannot be understood.
pub(super) fn damaged(record: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "read the store", "a record is damaged, or of a newer version")
        .with_context("record", record)
}

/// The fields of a packed record that have not been read yet.
struct Fields {
    record: &'static str,
    bytes: Bytes,
}

impl Fields {
    fn new(record: &'static str, bytes: Bytes) -> Result<Self> {
        let mut fields = Self { record, bytes };
        if fields.u8()? == VERSION { Ok(fields) } else { Err(fields.damaged()) }
    }

    fn damaged(&self) -> Error {
        damaged(self.record)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let field = *self.bytes.first_chunk().ok_or_else(|| self.damaged())?;
        let _ = self.bytes.split_to(N);
        Ok(field)
    }

    fn u8(&mut self) -> Result<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn u128(&mut self) -> Result<u128> {
        self.take().map(u128::from_be_bytes)
    }

    /// A length and as many bytes.
    fn part(&mut self) -> Result<Bytes> {
        let length = self.u32()? as usize;
        if length <= self.bytes.len() { Ok(self.bytes.split_to(length)) } else { Err(self.damaged()) }
    }

    fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn outcome() -> OutcomeRecord {
        let mut stamps = HopStamps::default();
        stamps.set(Hop::Started, Timestamp::from_nanos(17));
        OutcomeRecord {
            outcome: Outcome {
                task: TaskId::from_u128(5),
                attempt: 2,
                kind: OutcomeKind::Cancelled,
                payload: "payload".into(),
                stdout: "out".into(),
                stderr: Bytes::new(),
                worker: "{}".into(),
                stamps,
            },
            completed: Timestamp::from_nanos(99),
        }
    }

    #[test]
    fn every_cut_of_a_packed_record_is_an_error_and_not_a_panic() {
        let whole = encode_outcome(&outcome());
        assert_eq!(decode_outcome(TaskId::from_u128(5), whole.clone()).unwrap(), outcome());
        // What comes after the lengths is the payload, which has no length of its own.
        for length in 0..whole.len() - "payload".len() {
            let error = decode_outcome(TaskId::from_u128(5), whole.slice(..length)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal, "{length}");
        }
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let mut bytes = encode_outcome(&outcome()).to_vec();
        bytes[0] = VERSION + 1;
        assert!(decode_outcome(TaskId::from_u128(5), bytes.into()).is_err());
    }

    #[test]
    fn stamps_of_hops_that_a_newer_program_added_are_passed_over() {
        let mut whole = outcome();
        whole.outcome.stamps = HopStamps::from_nanos([7; Hop::ALL.len()]);
        let mut bytes = encode_outcome(&whole).to_vec();
        let count = 1 + 4 + 1 + 8;
        bytes[count] += 1;
        let at = count + 1 + 8 * Hop::ALL.len();
        bytes.splice(at..at, [0; 8]);
        assert_eq!(decode_outcome(TaskId::from_u128(5), bytes.into()).unwrap(), whole);
    }

    #[test]
    fn specifications_keep_every_field_and_differ_by_hash() {
        let function = Arc::new(Function::python("f", "def f(): pass"));
        let spec = TaskSpec {
            function: Arc::clone(&function),
            shape: Shape {
                milli_cores: 2500,
                memory_bytes: 1 << 33,
                accelerators: Accelerators { milli_count: 250, kind: Some("nvidia-a100".into()) },
                nodes: 3,
                ranks_per_node: 4,
                walltime: Some(Duration::new(5, 7)),
                environment: Some("ml".into()),
                container: Some("image.sif".into()),
                target: Target::Labels(vec!["gpu".into()]),
            },
            limits: TaskLimits {
                max_attempts: 9,
                priority: -3,
                ttl: Some(Duration::from_secs(60)),
                deadline: Some(Duration::from_millis(1)),
            },
            owner: IdentityId::from_u128(3),
            options: Bytes::from_static(b"\xff not even UTF-8"),
            map: true,
            memoize: Memoize::Own,
            trace: TraceContext { trace_id: 1, span_id: 2, flags: 1 },
        };
        let (hash, bytes) = encode_spec(&spec);
        assert_eq!(decode_spec(bytes, spec.trace, |_| Ok(Arc::clone(&function))).unwrap(), spec);

        let traced = TaskSpec { trace: TraceContext::default(), ..spec.clone() };
        assert_eq!(encode_spec(&traced).0, hash, "the trace lies elsewhere");
        let wider = TaskSpec { shape: Shape { nodes: 4, ..spec.shape.clone() }, ..spec };
        assert_ne!(encode_spec(&wider).0, hash);
    }

    #[test]
    fn code_that_does_not_have_its_hash_is_refused() {
        let function = Function::python("f", "def f(): pass");
        let bytes = encode_body(function.body());
        assert_eq!(decode_body(function.hash(), bytes.clone()).unwrap(), function);
        assert!(decode_body(FunctionHash([0; 32]), bytes).is_err());
    }
}
