//! Every message through the codec and back, its bytes, and bytes that are no message.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use funcx_core::contract::Frame;
use funcx_core::message::{
    FunctionBatch, Hello, MAGIC, Message, OutcomeBatch, PROTOCOL, Refused, Report, Role, TaskBatch, Warm,
    WarmType, Welcome, WireAttempt, WireCapacity, WireTaskEvent,
};
use funcx_core::model::{
    ErrorKind, Function, FunctionBody, FunctionHash, FunctionKind, Hop, IdentityId, Outcome, OutcomeKind,
    Target, Task, TaskEvent, TaskEventKind, TaskId, TaskSpec, Tick, Timestamp, limit,
};
use funcx_net::codec::{COPY_BELOW_BYTES, decode, encode};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

fn encoded(message: Message) -> Bytes {
    encode(message).expect("the message is valid").into_contiguous()
}

/// One message of every kind, each with something in every field.
fn samples() -> Vec<Message> {
    let attempt = |n: u128| WireAttempt { task: TaskId::from_u128(n), number: 3 };
    let function = Arc::new(Function::python("double", "def double(x): return 2 * x"));
    let mut spec = TaskSpec::new(Arc::clone(&function), IdentityId::from_u128(0x1d));
    spec.shape.memory_bytes = 1 << 30;
    spec.shape.accelerators.milli_count = 500;
    spec.shape.accelerators.kind = Some("a100".into());
    spec.shape.walltime = Some(Duration::from_millis(90_500));
    spec.shape.environment = Some("ml".into());
    spec.shape.container = Some("image.sif".into());
    spec.shape.target = Target::Labels(vec!["gpu".into(), "fast".into()]);
    spec.options = r#"{"env":{}}"#.into();
    spec.trace.trace_id = 0xabcd;
    let spec = Arc::new(spec);
    let mut task = Task::new(TaskId::from_u128(0x7a51), spec, r#"{"args":[21]}"#);
    task.stamps.set(Hop::Accepted, Timestamp::from_nanos(1_700_000_000_000_000_000));
    let mut outcome = Outcome::returned(&task, "42");
    outcome.stdout = "so\n".into();
    outcome.stderr = "se\n".into();
    outcome.worker = r#"{"os":"linux"}"#.into();
    let mut functions = FunctionBatch { forget: vec![FunctionHash([7; 32])], ..FunctionBatch::default() };
    functions.push(&function);
    vec![
        Message::Hello(Hello {
            magic: MAGIC,
            protocol: PROTOCOL,
            role: Role::Manager,
            node: Uuid::from_u128(0xb0b),
            epoch: u64::MAX,
            life: 3,
            process: 77,
            ends_in: Some(Duration::from_secs(3600)),
            credential: "secret".into(),
            name: "node17".into(),
            software: "funcx 0.1.0".into(),
        }),
        Message::Held(vec![attempt(1), attempt(2)]),
        Message::Capacity(WireCapacity { slots: 64, prefetch: 300 }),
        Message::Outcomes(OutcomeBatch::new(9, [outcome])),
        Message::TaskEvents(vec![
            event(attempt(1), 1_700_000_000_000_000_001, TaskEventKind::Started, ""),
            event(attempt(2), 1_700_000_000_000_000_002, TaskEventKind::LeaseLost, "it was killed"),
        ]),
        Message::Report(Report { managers: 2, workers: 128, queued: 70_000, leased: 130 }),
        Message::Pong(251),
        Message::GaveBack(vec![attempt(4)]),
        Message::Goodbye,
        Message::Welcome(Welcome {
            protocol: 1,
            heartbeat: Duration::from_secs(2),
            silence: Duration::from_millis(6500),
            software: "funcx 0.1.0".into(),
        }),
        Message::Refused(Refused { reason: "no common protocol version".into(), retry: false }),
        Message::Functions(functions),
        Message::Tasks(TaskBatch::new([task], Tick::ZERO)),
        Message::Cancel(vec![attempt(3)]),
        Message::OutcomesAcked(8),
        Message::Drain,
        Message::ForgetValues,
        Message::Ping(250),
        Message::Abandon(vec![attempt(5)]),
        Message::Warm(Warm {
            types: vec![
                WarmType { environment: None, slots: 3 },
                WarmType { environment: Some("ml".into()), slots: 500 },
            ],
            cold_starts: 70_000,
            switches: 300,
            retired: 2,
        }),
    ]
}

fn golden_path(message: &Message) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/codec")
        .join(message.name())
        .with_extension("hex")
}

fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits"))
        .collect()
}

/// The format on the wire is what peers of another version speak. When this fails, see "Changing the wire format" in
/// the documentation of the codec. Frames of new kinds are written with `FUNCX_WRITE_FRAMES=1`.
#[test]
fn frames_of_every_kind_are_what_they_were() {
    let samples = samples();
    for message in &samples {
        let path = golden_path(message);
        let text = hex(&encoded(message.clone()));
        if !path.exists() && std::env::var_os("FUNCX_WRITE_FRAMES").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text, golden, "the encoding of {} has changed", message.name());
        assert_eq!(
            &decode(unhex(&golden).into()).unwrap(),
            message,
            "{} is not decoded any more",
            message.name()
        );
    }
    let files = golden_path(&samples[0]).parent().unwrap().read_dir().unwrap().count();
    assert_eq!(files, samples.len(), "every kind has a frame, and every frame a kind");
}

#[test]
fn large_payloads_are_not_copied_on_either_side() {
    let spec = Arc::new(TaskSpec::new(Arc::new(Function::native("f")), IdentityId::from_u128(1)));
    let large = Bytes::from(vec![1; COPY_BELOW_BYTES]);
    let tasks = [large.clone(), "small".into(), Bytes::new(), "small too".into(), large.clone()]
        .map(|payload| Task::new(TaskId::from_u128(1), Arc::clone(&spec), payload));
    let batch = TaskBatch::new(tasks, Tick::ZERO);

    let pieces = encode(Message::Tasks(batch.clone())).unwrap().into_pieces();
    assert_eq!(pieces.len(), 4, "header, large, both small ones, large");
    assert_eq!((pieces[1].as_ptr(), pieces[3].as_ptr()), (large.as_ptr(), large.as_ptr()));

    let frame = Frame::new(pieces).into_contiguous();
    let Message::Tasks(decoded) = decode(frame.clone()).unwrap() else { panic!("it was a batch of tasks") };
    assert_eq!(decoded, batch);
    let within = frame.as_ptr_range();
    let payloads = decoded.payloads.iter().filter(|payload| !payload.is_empty());
    assert!(
        payloads
            .map(|payload| payload.as_ptr_range())
            .all(|range| within.start <= range.start && range.end <= within.end)
    );
}

/// What `decode` says about bytes that are no message.
fn refusal(bytes: impl Into<Bytes>) -> String {
    let error = decode(bytes.into()).expect_err("these bytes are no message");
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    error.to_string()
}

#[test]
fn what_is_wrong_is_said() {
    let tasks = |change: fn(&mut Vec<u8>)| {
        let message = samples().into_iter().find(|message| message.name() == "Tasks").unwrap();
        let mut bytes = encoded(message).to_vec();
        change(&mut bytes);
        bytes
    };
    let cases: [(Vec<u8>, &str); 12] = [
        (vec![], "the frame is empty"),
        (vec![0x7f, 0, 0, 0, 0], "the frame is of a kind that this version does not know (kind: 127)"),
        (vec![0x88, 1, 0], "the frame ends before its header (message: Ping)"),
        (
            vec![0x88, 2, 0, 0, 0, 7],
            "the header is longer than the frame (header_bytes: 2, frame_bytes: 6, message: Ping)",
        ),
        (vec![0x88, 0, 0, 0, 0xff, 7], "the header is longer than MAX_FRAME_HEADER_BYTES"),
        (vec![0x88, 0, 0, 0, 0], "the header does not decode (message: Ping)"),
        (vec![0x88, 2, 0, 0, 0, 7, 7], "the header has bytes left over (left_bytes: 1, message: Ping)"),
        (vec![0x88, 1, 0, 0, 0, 7, 7], "the frame has bytes left over (left_bytes: 1, message: Ping)"),
        (vec![0x08, 0, 0, 0, 0, 7], "the frame has bytes left over (left_bytes: 1, message: Goodbye)"),
        (
            tasks(|bytes| bytes.truncate(bytes.len() - 1)),
            "a payload is longer than the rest of the frame (payload_bytes: 13",
        ),
        (tasks(|bytes| bytes.push(0)), "the frame has bytes left over (left_bytes: 1, message: Tasks)"),
        // A list that claims 2^32 - 1 attempts.
        (vec![0x85, 5, 0, 0, 0, 252, 255, 255, 255, 255], "expected a list of at most 4096 entries"),
    ];
    for (bytes, expected) in cases {
        let said = refusal(bytes);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn every_byte_of_a_header_counts() {
    for message in samples() {
        let frame = encoded(message.clone());
        for length in 0..frame.len() {
            refusal(frame.slice(..length));
        }
        // A byte that changes is refused or leads to another message, never to the same one.
        for at in 0..frame.len() {
            let mut bytes = frame.to_vec();
            bytes[at] ^= 0x55;
            if let Ok(other) = decode(bytes.into()) {
                assert_ne!(other, message, "byte {at} of {}", message.name());
            }
        }
    }
}

#[test]
fn texts_of_the_handshake_are_bounded() {
    let long = "x".repeat(limit::MAX_TEXT_BYTES + 1);
    let at_most = "x".repeat(limit::MAX_TEXT_BYTES);
    let field = |name: &'static str, text: &str| {
        let mut hello = match &samples()[0] {
            Message::Hello(hello) => hello.clone(),
            other => panic!("{} comes first", other.name()),
        };
        match name {
            "credential" => hello.credential = text.into(),
            "name" => hello.name = text.into(),
            _ => hello.software = text.into(),
        }
        encoded(Message::Hello(hello))
    };
    for name in ["credential", "name", "software"] {
        let said = refusal(field(name, &long));
        assert!(said.contains(&format!("field: {name}, bytes: 4097")), "{said}");
        assert!(!said.contains("xxx"), "texts of strangers do not reach the log: {said}");
        assert!(decode(field(name, &at_most)).is_ok());
    }
}

#[test]
fn a_long_reason_is_cut_so_that_it_arrives() {
    let reason = "é".repeat(limit::MAX_TEXT_BYTES);
    let frame = encoded(Message::Refused(Refused { reason: reason.clone(), retry: true }));
    let Message::Refused(refused) = decode(frame).unwrap() else { panic!("it was a refusal") };
    assert_eq!((refused.reason.len(), refused.retry), (limit::MAX_TEXT_BYTES, true));
    assert!(reason.starts_with(&refused.reason));
}

#[test]
fn what_the_other_side_would_refuse_is_not_sent() {
    let kind = |message: Message| encode(message).unwrap_err().kind();
    let attempt = WireAttempt { task: TaskId::from_u128(1), number: 1 };
    assert_eq!(kind(Message::Cancel(vec![attempt; limit::MAX_BATCH_TASKS + 1])), ErrorKind::LimitExceeded);
    assert!(encode(Message::Cancel(vec![attempt; limit::MAX_BATCH_TASKS])).is_ok());

    let types = vec![WarmType { environment: None, slots: 1 }; limit::MAX_ENVIRONMENTS + 2];
    assert_eq!(kind(Message::Warm(Warm { types, ..Warm::default() })), ErrorKind::LimitExceeded);

    let mut batch = TaskBatch::default();
    batch.payloads.push("no head".into());
    assert_eq!(kind(Message::Tasks(batch)), ErrorKind::Internal);

    let Some(Message::Outcomes(mut batch)) = samples().into_iter().nth(3) else {
        panic!("outcomes come fourth")
    };
    batch.payloads.pop();
    assert_eq!(kind(Message::Outcomes(batch)), ErrorKind::Internal);

    let workers = vec!["x".repeat(1 << 20); 17];
    assert_eq!(
        kind(Message::Outcomes(OutcomeBatch { workers, ..OutcomeBatch::default() })),
        ErrorKind::LimitExceeded
    );

    let piece = Bytes::from(vec![0; limit::MAX_FRAME_BYTES / 2]);
    let mut batch = FunctionBatch::default();
    for entry in ["a", "b"] {
        let body = FunctionBody { kind: FunctionKind::Shell, entry: entry.into(), code: Bytes::new() };
        batch.push(&Function::new(body));
    }
    batch.heads.iter_mut().for_each(|head| head.code_len = piece.len() as u32);
    batch.payloads = vec![piece.clone(), piece];
    assert_eq!(kind(Message::Functions(batch)), ErrorKind::LimitExceeded);
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => (COPY_BELOW_BYTES - 1..COPY_BELOW_BYTES + 2).prop_map(|length| Bytes::from(vec![0xa5; length])),
    ]
}

fn event(attempt: WireAttempt, at: u64, kind: TaskEventKind, detail: &str) -> WireTaskEvent {
    let (attempt, at) = (attempt.into(), Timestamp::from_nanos(at));
    TaskEvent { attempt, at, kind, actor: "m1".into(), detail: detail.into() }.into()
}

fn attempts() -> impl Strategy<Value = Vec<WireAttempt>> {
    let attempt = (any::<u128>(), any::<u32>())
        .prop_map(|(task, number)| WireAttempt { task: TaskId::from_u128(task), number });
    vec(attempt, 0..20)
}

fn hello() -> impl Strategy<Value = Message> {
    let role = prop_oneof![Just(Role::Endpoint), Just(Role::Manager)];
    (any::<u32>(), role, any::<u128>(), any::<u64>(), text(), text(), text()).prop_map(
        |(magic, role, node, epoch, credential, name, software)| {
            let node = Uuid::from_u128(node);
            let (life, process) = (epoch as u32, !epoch);
            let ends_in = (epoch % 2 == 0).then(|| Duration::from_nanos(epoch));
            Message::Hello(Hello {
                magic,
                protocol: PROTOCOL,
                role,
                node,
                epoch,
                life,
                process,
                ends_in,
                credential,
                name,
                software,
            })
        },
    )
}

fn function() -> impl Strategy<Value = Function> {
    (prop::sample::select(&FunctionKind::ALL[..]), text(), payload())
        .prop_map(|(kind, entry, code)| Function::new(FunctionBody { kind, entry, code }))
}

fn functions() -> impl Strategy<Value = Message> {
    (vec(function(), 0..8), vec(any::<[u8; 32]>(), 0..8)).prop_map(|(functions, forget)| {
        let mut batch = FunctionBatch {
            forget: forget.into_iter().map(FunctionHash).collect(),
            ..FunctionBatch::default()
        };
        functions.iter().for_each(|function| batch.push(function));
        Message::Functions(batch)
    })
}

fn spec() -> impl Strategy<Value = Arc<TaskSpec>> {
    let place =
        (proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(vec(text(), 0..4)));
    (
        function(),
        any::<[u32; 4]>(),
        any::<u64>(),
        proptest::option::of(any::<Duration>()),
        place,
        text(),
        any::<(u128, u64, u8)>(),
    )
        .prop_map(
            |(function, counts, memory, walltime, (accelerator, container, labels), options, trace)| {
                let mut spec =
                    TaskSpec::new(Arc::new(function), IdentityId::from_u128(trace.0.rotate_left(9)));
                spec.shape.milli_cores = counts[0];
                spec.shape.accelerators.milli_count = counts[1];
                spec.shape.accelerators.kind = accelerator;
                spec.shape.nodes = counts[2];
                spec.shape.ranks_per_node = counts[3];
                spec.shape.memory_bytes = memory;
                spec.shape.walltime = walltime;
                spec.shape.environment = container.clone();
                spec.shape.container = container;
                spec.shape.target = labels.map_or(Target::Anywhere, Target::Labels);
                spec.options = options.into();
                (spec.trace.trace_id, spec.trace.span_id, spec.trace.flags) = trace;
                Arc::new(spec)
            },
        )
}

fn task() -> impl Strategy<Value = Task> {
    (spec(), any::<u128>(), any::<u32>(), payload(), any::<[u64; 8]>()).prop_map(
        |(spec, id, attempt, payload, stamps)| {
            let mut task = Task::new(TaskId::from_u128(id), spec, payload);
            task.attempt = attempt;
            task.stamps = funcx_core::model::HopStamps::from_nanos(stamps);
            task
        },
    )
}

fn outcome() -> impl Strategy<Value = Outcome> {
    use OutcomeKind::{Cancelled, Lost, Raised, Returned, TimedOut};
    let kind = prop::sample::select(vec![Returned, Raised, TimedOut, Cancelled, Lost]);
    (task(), kind, [payload(), payload(), payload()], text()).prop_map(
        |(task, kind, [payload, stdout, stderr], worker)| Outcome {
            kind,
            stdout,
            stderr,
            worker: worker.into(),
            ..Outcome::returned(&task, payload)
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let event = (any::<u128>(), any::<u32>(), any::<u64>(), text()).prop_map(|(task, number, at, detail)| {
        let kinds = [TaskEventKind::Started, TaskEventKind::Lost, TaskEventKind::CancelRequested];
        let attempt = WireAttempt { task: TaskId::from_u128(task), number };
        event(attempt, at, kinds[number as usize % 3], &detail)
    });
    prop_oneof![
        hello(),
        functions(),
        vec(task(), 0..8).prop_map(|tasks| Message::Tasks(TaskBatch::new(tasks, Tick::ZERO))),
        (any::<u64>(), vec(outcome(), 0..8))
            .prop_map(|(sequence, outcomes)| Message::Outcomes(OutcomeBatch::new(sequence, outcomes))),
        attempts().prop_map(Message::Held),
        attempts().prop_map(Message::Cancel),
        attempts().prop_map(Message::Abandon),
        attempts().prop_map(Message::GaveBack),
        vec(event, 0..20).prop_map(Message::TaskEvents),
        any::<(u32, u32)>().prop_map(|(slots, prefetch)| Message::Capacity(WireCapacity { slots, prefetch })),
        any::<(u32, u32, u64, u64)>().prop_map(|(managers, workers, queued, leased)| {
            Message::Report(Report { managers, workers, queued, leased })
        }),
        (any::<u16>(), any::<(Duration, Duration)>(), text()).prop_map(
            |(protocol, (heartbeat, silence), software)| {
                Message::Welcome(Welcome { protocol, heartbeat, silence, software })
            }
        ),
        (text(), any::<bool>()).prop_map(|(reason, retry)| Message::Refused(Refused { reason, retry })),
        any::<u64>().prop_map(Message::Ping),
        any::<u64>().prop_map(Message::Pong),
        any::<u64>().prop_map(Message::OutcomesAcked),
        Just(Message::Goodbye),
        Just(Message::Drain),
        Just(Message::ForgetValues),
    ]
}

proptest! {
    #[test]
    fn messages_come_back_as_they_went(message in message()) {
        prop_assert_eq!(decode(encoded(message.clone())).unwrap(), message);
    }

    #[test]
    fn damaged_frames_are_refused_or_are_other_messages(message in message(), at in any::<prop::sample::Index>(), bits in 1..=u8::MAX) {
        let mut bytes = encoded(message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        match decode(bytes.into()) {
            Ok(other) => prop_assert_eq!(decode(encoded(other.clone())).unwrap(), other),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Protocol),
        }
    }
}
