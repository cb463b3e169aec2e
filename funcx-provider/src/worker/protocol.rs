//! Frames between the pool and a worker process, as `PROTOCOL.md` describes them.
//!
//! What a worker sends is checked here before anything else looks at it: lengths before memory is taken, counts
//! against lengths. Payloads are slices of the buffer that they were read into.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use funcx_core::model::{EndpointId, Error, ErrorKind, Function, FunctionKind, Result, Task, Timestamp};
use serde::{Deserialize, Serialize};

/// The only version there is.
const PROTOCOL_VERSION: u32 = 1;
/// Longest frame: kind and body.
pub(super) const MAX_FRAME_BYTES: usize = 256 << 20;
/// What the worker needs of a frame besides the largest result and the captured output of one task: other outcomes
/// that travel with it, heads, a traceback.
pub(super) const FRAME_SPARE_BYTES: usize = 4 << 20;
/// What a stream of captured output may be longer than the bound of the configuration: the line about what was dropped.
pub(super) const OUTPUT_SPARE_BYTES: usize = 64;
/// Longest `Hello` frame.
const MAX_HELLO_BYTES: usize = 64 << 10;
const LENGTH_BYTES: usize = 4;
const TASK_HEAD_BYTES: usize = 40;
const OUTCOME_HEAD_BYTES: usize = 40;
/// Payloads up to this size are copied next to the heads: one entry of a vectored write costs more than the copy.
const COPY_BYTES: usize = 2048;
/// Flag of a task: say so before it starts.
const ANNOUNCE: u32 = 1;
/// Flag of a task: its payload is an array with the arguments of many calls.
const MAP: u32 = 2;

/// What a worker says first.
#[derive(Debug, Deserialize)]
pub(super) struct Hello {
    protocol: u32,
    /// The number that the pool gave to the worker.
    pub(super) worker: u64,
    pub(super) pid: u32,
    details: serde_json::Map<String, serde_json::Value>,
}

impl Hello {
    /// What it says about itself, as the text of a JSON object.
    pub(super) fn details(&self) -> Bytes {
        serde_json::to_vec(&self.details).unwrap_or_default().into()
    }
}

/// One frame of a worker.
#[derive(Debug)]
pub(super) enum FromWorker {
    Hello(Hello),
    /// The announced task with this tag begins.
    Started(u64),
    Outcomes(Vec<TaskEnd>),
    /// The task with this tag runs; none of those behind it begins.
    GaveBack(u64),
}

/// How one task ended, in the worker's words.
#[derive(Debug, Clone)]
pub(super) struct TaskEnd {
    pub(super) tag: u64,
    pub(super) returned: bool,
    pub(super) payload: Bytes,
    pub(super) stdout: Bytes,
    pub(super) stderr: Bytes,
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
}

fn broken(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Protocol, "read from worker", message)
}

/// Takes the first frame off `buffer`; `None` if it is not complete yet.
///
/// # Errors
/// `Protocol`: the connection is of no more use.
pub(super) fn take_frame(buffer: &mut BytesMut) -> Result<Option<FromWorker>> {
    let Some(length) = frame_length(buffer)? else { return Ok(None) };
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    let mut body = buffer.split_to(length).freeze();
    let kind = body.get_u8();
    decode(kind, body).map(Some)
}

/// Bytes still to be read before [`take_frame`] can give a frame.
pub(super) fn missing_bytes(buffer: &BytesMut) -> usize {
    match frame_length(buffer) {
        Ok(Some(length)) => (LENGTH_BYTES + length).saturating_sub(buffer.len()),
        _ => LENGTH_BYTES,
    }
}

fn frame_length(buffer: &BytesMut) -> Result<Option<usize>> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    match u32::from_le_bytes(*length) as usize {
        length @ 1..=MAX_FRAME_BYTES => Ok(Some(length)),
        length => Err(broken(format!("a frame of {length} bytes; 1 to {MAX_FRAME_BYTES} are allowed"))),
    }
}

fn decode(kind: u8, mut body: Bytes) -> Result<FromWorker> {
    match kind {
        b'H' => decode_hello(&body),
        b'S' if body.len() == 8 => Ok(FromWorker::Started(body.get_u64_le())),
        b'G' if body.len() == 8 => Ok(FromWorker::GaveBack(body.get_u64_le())),
        b'S' | b'G' => Err(broken(format!("a notice of a task of {} bytes", body.len()))),
        b'O' => decode_outcomes(body),
        kind => Err(broken(format!("a frame of unknown kind {kind}"))),
    }
}

fn decode_hello(body: &Bytes) -> Result<FromWorker> {
    if body.len() > MAX_HELLO_BYTES {
        return Err(broken(format!("a hello of {} bytes; {MAX_HELLO_BYTES} are allowed", body.len())));
    }
    let hello: Hello = serde_json::from_slice(body)
        .map_err(|error| broken("a hello that cannot be read").with_source(error))?;
    match hello.protocol {
        PROTOCOL_VERSION => Ok(FromWorker::Hello(hello)),
        other => Err(broken(format!("the worker speaks protocol {other}, this pool {PROTOCOL_VERSION}"))),
    }
}

fn decode_outcomes(mut body: Bytes) -> Result<FromWorker> {
    if body.len() < 4 {
        return Err(broken("an outcomes frame without a count"));
    }
    let count = body.get_u32_le() as usize;
    if count.checked_mul(OUTCOME_HEAD_BYTES).is_none_or(|bytes| bytes > body.len()) {
        return Err(broken(format!("{count} outcomes in {} bytes", body.len())));
    }
    let mut heads = body.split_to(count * OUTCOME_HEAD_BYTES);
    let mut ends = Vec::with_capacity(count);
    for _ in 0..count {
        let tag = heads.get_u64_le();
        let kind = heads.get_u8();
        heads.advance(3);
        let lengths = [(); 3].map(|()| heads.get_u32_le() as usize);
        let (started, ended) = (heads.get_u64_le(), heads.get_u64_le());
        if lengths.iter().sum::<usize>() > body.len() || kind > 1 {
            return Err(broken(format!(
                "outcome {tag} of kind {kind} with {lengths:?} of {} bytes",
                body.len()
            )));
        }
        ends.push(TaskEnd {
            tag,
            returned: kind == 0,
            payload: body.split_to(lengths[0]),
            stdout: body.split_to(lengths[1]),
            stderr: body.split_to(lengths[2]),
            started: Timestamp::from_nanos(started),
            ended: Timestamp::from_nanos(ended),
        });
    }
    match body.len() {
        0 => Ok(FromWorker::Outcomes(ends)),
        rest => Err(broken(format!("{rest} bytes behind the last outcome"))),
    }
}

/// What a worker is told first.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Welcome {
    pub(super) max_result_bytes: usize,
    pub(super) max_output_bytes: usize,
    pub(super) work_dir: String,
    pub(super) endpoint_id: Option<EndpointId>,
}

/// One task for a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskItem<'a> {
    pub(super) tag: u64,
    pub(super) function: u32,
    pub(super) announce: bool,
    pub(super) task: &'a Task,
}

impl TaskItem<'_> {
    fn flags(&self) -> u32 {
        let announce = if self.announce { ANNOUNCE } else { 0 };
        let map = if self.task.spec.map { MAP } else { 0 };
        announce | map
    }

    fn bytes(&self) -> usize {
        TASK_HEAD_BYTES + self.task.spec.options.len() + self.task.payload.len()
    }
}

/// Frames for one worker, as pieces for a vectored write.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    pieces: Vec<Bytes>,
    last: BytesMut,
}

impl FrameWriter {
    pub(super) fn welcome(&mut self, welcome: &Welcome) {
        // Numbers and strings always have a JSON form.
        let body = serde_json::to_vec(welcome).unwrap_or_default();
        self.begin(b'W', body.len());
        self.last.put_slice(&body);
    }

    pub(super) fn function(&mut self, index: u32, function: &Function) {
        let body = function.body();
        self.begin(b'F', 9 + body.entry.len() + body.code.len());
        self.last.put_u32_le(index);
        self.last.put_u8(kind_code(body.kind).unwrap_or_default());
        self.last.put_u32_le(body.entry.len() as u32);
        self.last.put_slice(body.entry.as_bytes());
        self.put(&body.code);
    }

    pub(super) fn drop_function(&mut self, index: u32) {
        self.begin(b'D', 4);
        self.last.put_u32_le(index);
    }

    /// One frame with these tasks; the caller keeps it below [`MAX_FRAME_BYTES`].
    pub(super) fn tasks<'a>(&mut self, items: impl Iterator<Item = TaskItem<'a>> + Clone) {
        let (count, bytes) =
            items.clone().fold((0_u32, 0), |(count, bytes), item| (count + 1, bytes + item.bytes()));
        self.begin(b'T', 4 + bytes);
        self.last.reserve(4 + count as usize * TASK_HEAD_BYTES);
        self.last.put_u32_le(count);
        for item in items.clone() {
            self.last.put_u64_le(item.tag);
            self.last.put_u128(item.task.id.as_u128());
            self.last.put_u32_le(item.function);
            self.last.put_u32_le(item.flags());
            self.last.put_u32_le(item.task.spec.options.len() as u32);
            self.last.put_u32_le(item.task.payload.len() as u32);
        }
        for item in items {
            self.put(&item.task.spec.options);
            self.put(&item.task.payload);
        }
    }

    /// What it gave back is known: it may begin what is sent from now on.
    pub(super) fn resume(&mut self) {
        self.begin(b'R', 0);
    }

    pub(super) fn exit(&mut self) {
        self.begin(b'X', 0);
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        self.close_piece();
        self.pieces
    }

    fn begin(&mut self, kind: u8, body_bytes: usize) {
        self.last.put_u32_le(1 + body_bytes as u32);
        self.last.put_u8(kind);
    }

    fn put(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPY_BYTES {
            self.last.put_slice(bytes);
        } else {
            self.close_piece();
            self.pieces.push(bytes.clone());
        }
    }

    fn close_piece(&mut self) {
        if !self.last.is_empty() {
            self.pieces.push(self.last.split().freeze());
        }
    }
}

/// The number of a function kind on the wire; `None` for kinds that no worker runs.
pub(super) const fn kind_code(kind: FunctionKind) -> Option<u8> {
    match kind {
        FunctionKind::Python => Some(1),
        FunctionKind::GlobusCompute => Some(2),
        _ => None,
    }
}

/// Why this task cannot be sent to a worker, or a command to the zygote, if that is so.
pub(super) fn unsendable(task: &Task) -> Option<String> {
    let body = task.spec.function.body();
    let sizes = [
        ("the function", body.entry.len() + body.code.len()),
        ("the arguments", task.spec.options.len() + task.payload.len()),
    ];
    let largest = MAX_FRAME_BYTES - FRAME_SPARE_BYTES;
    sizes.into_iter().find(|(_, bytes)| *bytes > largest).map(|(what, bytes)| {
        format!("{what} of {bytes} bytes cannot be sent to a worker; at most {largest} can")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use funcx_core::model::{IdentityId, TaskId, TaskSpec};

    use super::*;

    fn outcome_head(tag: u64, kind: u8, lengths: [u32; 3]) -> Vec<u8> {
        let mut head = Vec::new();
        head.put_u64_le(tag);
        head.put_slice(&[kind, 0, 0, 0]);
        lengths.iter().for_each(|length| head.put_u32_le(*length));
        head.put_u64_le(1);
        head.put_u64_le(2);
        head
    }

    fn frame(kind: u8, body: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.put_u32_le(1 + body.len() as u32);
        frame.put_u8(kind);
        frame.put_slice(body);
        frame
    }

    #[test]
    fn outcomes_are_slices_in_order() {
        let mut body = 2_u32.to_le_bytes().to_vec();
        body.extend(outcome_head(7, 0, [2, 1, 0]));
        body.extend(outcome_head(8, 1, [0, 0, 3]));
        body.extend(b"okxerr");
        let mut buffer = frame(b'O', &body);
        let Ok(Some(FromWorker::Outcomes(ends))) = take_frame(&mut buffer) else { panic!("no outcomes") };
        let seen: Vec<_> = ends
            .iter()
            .map(|end| (end.tag, end.returned, &end.payload[..], &end.stdout[..], &end.stderr[..]))
            .collect();
        assert_eq!(
            seen,
            [(7, true, b"ok".as_slice(), b"x".as_slice(), b"".as_slice()), (8, false, b"", b"", b"err")]
        );
        assert!(buffer.is_empty());
    }

    #[test]
    fn half_a_frame_waits_for_the_rest() {
        let whole = frame(b'S', &9_u64.to_le_bytes());
        for end in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..end]);
            assert!(matches!(take_frame(&mut part), Ok(None)));
            assert!((1..=whole.len() - end).contains(&missing_bytes(&part)));
        }
        assert!(matches!(take_frame(&mut whole.clone()), Ok(Some(FromWorker::Started(9)))));
    }

    #[test]
    fn what_no_worker_should_send_is_an_error() {
        let count = |count: u32, heads: &[Vec<u8>], rest: &[u8]| {
            let mut body = count.to_le_bytes().to_vec();
            heads.iter().for_each(|head| body.extend(head));
            body.extend(rest);
            frame(b'O', &body)
        };
        let cases = [
            frame(b'Z', b""),
            frame(b'S', b"short"),
            frame(b'H', b"{}"),
            frame(b'H', br#"{"protocol":2,"worker":1,"pid":1,"language":"python","details":{}}"#),
            frame(b'O', b"ab"),
            count(u32::MAX, &[], b""),
            count(1, &[outcome_head(1, 0, [u32::MAX; 3])], b"x"),
            count(1, &[outcome_head(1, 9, [0; 3])], b""),
            count(0, &[], b"rest"),
            BytesMut::from(&[0, 0, 0, 0][..]),
            BytesMut::from(&[255, 255, 255, 255][..]),
        ];
        for mut case in cases {
            let text = format!("{case:?}");
            assert!(take_frame(&mut case).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn large_payloads_are_pieces_of_their_own() {
        let function = Arc::new(Function::python("f", "def f(): pass"));
        let spec = Arc::new(TaskSpec::new(Arc::clone(&function), IdentityId::from_u128(1)));
        let tasks =
            [10, 10_000, 20].map(|bytes| Task::new(TaskId::from_u128(1), Arc::clone(&spec), vec![0; bytes]));
        let mut writer = FrameWriter::default();
        writer.function(3, &function);
        writer.tasks(tasks.iter().map(|task| TaskItem { tag: 1, function: 3, announce: true, task }));
        let pieces = writer.finish();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1], tasks[1].payload);
        let function_frame = 5 + 9 + 1 + 13;
        assert_eq!(pieces[0].len(), function_frame + 5 + 4 + 3 * TASK_HEAD_BYTES + 10);
        let length = u32::from_le_bytes(pieces[0][function_frame..][..4].try_into().unwrap());
        assert_eq!(length as usize, 1 + 4 + 3 * TASK_HEAD_BYTES + 10_030);
    }
}
