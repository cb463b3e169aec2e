//! The worker processes of a scripted pool.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use funcx_core::model::TaskId;

/// A process as it really is.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) forked: bool,
    pub(super) connection: Connection,
    /// What it has written and nobody could read yet.
    pub(super) unread: BytesMut,
    /// Tasks that it was given.
    pub(super) tasks: VecDeque<Given>,
    pub(super) functions: BTreeSet<u32>,
    /// It was told to end, or killed.
    pub(super) ends: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    #[default]
    None,
    Greeted,
    Closed,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Given {
    pub(super) tag: u64,
    pub(super) task: TaskId,
    pub(super) announce: bool,
    pub(super) begun: bool,
}

impl Process {
    /// Whether what it writes is understood.
    pub(super) fn is_heard(&self) -> bool {
        self.connection == Connection::Greeted && self.unread.is_empty()
    }

    /// Reads what the pool has written, as a worker does.
    pub(super) fn read(&mut self, pieces: &[Bytes], has_begun: impl Fn(TaskId) -> bool) {
        let mut bytes: BytesMut = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        while bytes.has_remaining() {
            let length = bytes.get_u32_le() as usize;
            let mut body = bytes.split_to(length);
            match body.get_u8() {
                b'W' => {
                    let welcome: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
                    assert!(welcome["max_result_bytes"].is_u64(), "{welcome}");
                }
                b'F' => drop(self.functions.insert(body.get_u32_le())),
                b'D' => assert!(self.functions.remove(&body.get_u32_le()), "it has that function"),
                b'T' => self.take_tasks(body, &has_begun),
                b'R' => assert_eq!(body.len(), 0, "it says nothing more"),
                b'X' => {
                    assert!(!bytes.has_remaining(), "the last word");
                    self.ends = true;
                }
                kind => panic!("a frame of kind {kind}"),
            }
        }
    }

    fn take_tasks(&mut self, mut body: BytesMut, has_begun: impl Fn(TaskId) -> bool) {
        let count = body.get_u32_le() as usize;
        assert_ne!(count, 0, "a frame holds tasks");
        let mut heads = body.split_to(40 * count);
        for _ in 0..count {
            let (tag, task) = (heads.get_u64_le(), TaskId::from_u128(heads.get_u128()));
            let (function, flags) = (heads.get_u32_le(), heads.get_u32_le());
            let (options, payload) = (heads.get_u32_le() as usize, heads.get_u32_le() as usize);
            assert!(self.functions.contains(&function), "it was sent function {function}");
            assert!(flags <= 1, "flags {flags}");
            assert!(!has_begun(task), "{task} has begun already and may run once");
            assert!(self.tasks.iter().all(|given| given.tag != tag), "tag {tag} is new");
            body.advance(options + payload);
            self.tasks.push_back(Given { tag, task, announce: flags == 1, begun: false });
        }
        assert!(!body.has_remaining(), "lengths add up");
    }
}

/// The process id of a worker.
pub(super) const fn pid_of(worker: u64) -> u32 {
    1000 + worker as u32
}

/// Writes a frame.
pub(super) fn put_frame(target: &mut BytesMut, kind: u8, body: &[u8]) {
    target.put_u32_le(1 + body.len() as u32);
    target.put_u8(kind);
    target.put_slice(body);
}

/// One outcome that claims three contents of `claimed` bytes each, with `actual` bytes behind its head.
pub(super) fn outcome_frame(tag: u64, kind: u8, claimed: u32, actual: usize, nanos: u64) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u32_le(1);
    body.put_u64_le(tag);
    body.put_slice(&[kind, 0, 0, 0]);
    (0..3).for_each(|_| body.put_u32_le(claimed));
    body.put_u64_le(10);
    body.put_u64_le(10 + nanos);
    body.put_bytes(b'x', actual);
    let mut frame = BytesMut::new();
    put_frame(&mut frame, b'O', &body);
    frame
}
