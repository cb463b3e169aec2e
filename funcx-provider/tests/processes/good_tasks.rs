//! What tasks do that do nothing wrong.

use std::time::Duration;

use funcx_core::contract::Executor;
use funcx_core::model::{Function, FunctionBody, FunctionKind, Hop, MapValue, OutcomeKind};

use crate::support::{Bench, value};

#[tokio::test]
async fn python_functions_take_arguments_and_return_values() {
    let mut bench = Bench::new(1).await;
    let outcome = bench.run_source("def f(a, b=3):\n    print('hello')\n    return [a, b]", "\"x\"").await;
    assert_eq!(value(&outcome), r#"["x", 3]"#);
    assert_eq!((&outcome.stdout[..], &outcome.stderr[..]), (b"hello\n".as_slice(), b"".as_slice()));
    let worker: serde_json::Value = serde_json::from_slice(&outcome.worker).unwrap();
    assert!(worker["python_version"].as_str().unwrap().starts_with("3."), "{worker}");
    let (started, ended) = (outcome.stamps.at(Hop::Started), outcome.stamps.at(Hop::Ended));
    assert!(started.is_set() && started <= ended);
    bench.finish().await;
}

#[tokio::test]
async fn a_function_is_mapped_over_many_arguments_in_one_task() {
    let mut bench = Bench::new(2).await;
    let source = "def f(n):\n    print(n)\n    return 12 // n";
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let mut task = bench.task_of(Function::python("f", source), "", |spec| spec.map = true);
            task.payload = r#"[{"args":[3]},{"args":[0]},{"kwargs":{"n":5}}]"#.into();
            task
        })
        .collect();
    bench.pool.start(tasks.clone());
    for outcome in bench.outcomes_of(&tasks).await {
        let seen: MapValue = serde_json::from_str(value(&outcome)).unwrap();
        let results: Vec<_> = seen.into_results().collect();
        assert_eq!((results[0].as_ref().unwrap().get(), results[2].as_ref().unwrap().get()), ("4", "2"));
        assert!(results[1].as_ref().unwrap_err().traceback.contains("ZeroDivisionError"));
        assert_eq!(&outcome.stdout[..], b"3\n0\n5\n");
    }
    // A map that runs is stopped as any task is.
    let source = "import time\ndef f(n):\n    time.sleep(n)";
    let mut long = bench.task_of(Function::python("f", source), "", |spec| spec.map = true);
    long.payload = r#"[{"args":[0]},{"args":[3600]},{"args":[0]}]"#.into();
    bench.pool.start(vec![long.clone()]);
    bench.started(long.attempt_id()).await;
    bench.pool.cancel(&[long.attempt_id()]);
    assert_eq!(bench.outcome(long.attempt_id()).await.kind, OutcomeKind::Cancelled);
    bench.finish().await;
}

#[tokio::test]
async fn commands_are_not_mapped() {
    let mut bench = Bench::new(1).await;
    let task = bench.task_of(Function::shell("true"), "", |spec| spec.map = true);
    assert_eq!(bench.run(task).await.failure().unwrap().code, "UnsupportedMap");
    bench.finish().await;
}

#[tokio::test]
async fn shell_commands_run() {
    let mut bench = Bench::new(1).await;
    let task = bench.task_of(Function::shell("echo {0}; echo oops >&2; exit 3"), "\"hello\"", |_| {});
    let outcome = bench.run(task).await;
    let seen: serde_json::Value = serde_json::from_str(value(&outcome)).unwrap();
    let expected = serde_json::json!({
        "returncode": 3, "stdout": "hello\n", "stderr": "oops\n", "cmd": "echo hello; echo oops >&2; exit 3",
    });
    assert_eq!((seen, outcome.stdout.len(), outcome.stderr.len()), (expected, 0, 0));
    let worker: serde_json::Value = serde_json::from_slice(&outcome.worker).unwrap();
    assert!(worker["python_version"].is_string(), "{worker}");
    let (started, ended) = (outcome.stamps.at(Hop::Started), outcome.stamps.at(Hop::Ended));
    assert!(started.is_set() && started <= ended);
    assert_eq!(bench.started, [outcome.attempt_id()], "it is reported as it starts");
    bench.finish().await;
}

#[tokio::test]
async fn commands_and_functions_share_the_slots() {
    let mut bench = Bench::new(2).await;
    let tasks: Vec<_> = (0..60)
        .map(|number| match number % 3 {
            0 => bench.task_of(Function::shell("echo {0}"), &number.to_string(), |_| {}),
            _ => bench.task("def f(n):\n    return n", &number.to_string()),
        })
        .collect();
    bench.pool.start(tasks.clone());
    for (number, outcome) in bench.outcomes_of(&tasks).await.iter().enumerate() {
        match number % 3 {
            0 => assert!(value(outcome).contains(&format!(r#""stdout":"{number}\n""#)), "{outcome:?}"),
            _ => assert_eq!(value(outcome), number.to_string()),
        }
    }
    bench.finish().await;
}

#[tokio::test]
async fn a_command_with_large_arguments_does_not_block_the_others() {
    let mut bench = Bench::new(2).await;
    let large = format!("\"{}\"", "x".repeat(16 << 20));
    let mut tasks = vec![bench.task_of(Function::shell("echo {1}"), &format!("{large}, 7"), |_| {})];
    tasks.extend((0..50).map(|_| bench.task_of(Function::shell("true"), "", |_| {})));
    bench.pool.start(tasks.clone());
    let outcomes = bench.outcomes_of(&tasks).await;
    assert!(value(&outcomes[0]).contains(r#""stdout":"7\n""#));
    assert!(outcomes.iter().all(|outcome| value(outcome).contains(r#""returncode":0"#)));
    bench.finish().await;
}

#[tokio::test]
async fn globus_compute_bodies_run() {
    // A function as source text with its name, and two pickles of no arguments, as the SDK frames them.
    let source = "st\nf:def f():\n    return None\n";
    let code = format!("{}\n{source}", source.len());
    let body = FunctionBody { kind: FunctionKind::GlobusCompute, entry: String::new(), code: code.into() };
    let mut bench = Bench::new(1).await;
    let mut task = bench.task_of(Function::new(body), "", |_| {});
    task.payload = "12\n00\ngASVAgAAAAAAAAApLg==\n".into();
    let arguments = "00\ngAQpLg==\n";
    let keywords = "00\ngAR9lC4=\n";
    task.payload = format!("{}\n{arguments}{}\n{keywords}", arguments.len(), keywords.len()).into();
    let outcome = bench.run(task).await;
    assert_eq!((outcome.kind, outcome.failure()), (OutcomeKind::Returned, None));
    assert!(outcome.payload.starts_with(b"00\n"), "{:?}", outcome.payload);
    bench.finish().await;
}

#[tokio::test]
async fn many_short_tasks_go_through_few_workers() {
    let mut bench = Bench::new(2).await;
    let source = "def f(number):\n    return number + 1";
    let count = 20_000;
    let function = std::sync::Arc::new(Function::python("f", source));
    let spec = bench.task_of(Function::clone(&function), "1", |_| {}).spec;
    let tasks: Vec<_> = (0..count)
        .map(|number| {
            let mut task = bench.task("", &number.to_string());
            task.spec = std::sync::Arc::clone(&spec);
            task
        })
        .collect();
    bench.pool.start(tasks.clone());
    for (number, outcome) in bench.outcomes_of(&tasks).await.iter().enumerate() {
        assert_eq!(value(outcome), (number + 1).to_string());
    }
    // The pool has learnt that these are short, and wants more of them ahead.
    let first = bench.pool.capability().capacity;
    let last = *bench.capacities.last().expect("a capacity that fits short tasks");
    assert!(last.slots == 2 && last.prefetch >= 2 * first.prefetch, "{last:?}");
    bench.finish().await;
}

#[tokio::test]
async fn a_long_task_does_not_hold_others_up() {
    let mut bench = Bench::new(2).await;
    let long = bench.task("import time\ndef f():\n    time.sleep(3600)", "");
    bench.pool.start(vec![long.clone()]);
    let tasks: Vec<_> =
        (0..200).map(|number| bench.task("def f(n):\n    return n", &number.to_string())).collect();
    bench.pool.start(tasks.clone());
    assert_eq!(bench.outcomes_of(&tasks).await.len(), 200);
    // Long enough for people to want to know.
    bench.started(long.attempt_id()).await;
    bench.pool.cancel(&[long.attempt_id()]);
    assert_eq!(bench.outcome(long.attempt_id()).await.kind, OutcomeKind::Cancelled);
    bench.finish().await;
}

#[tokio::test]
async fn a_task_that_takes_long_once_does_not_keep_those_behind_it() {
    let mut bench = Bench::new(2).await;
    let source = "import time\ndef f(n):\n    if n < 0:\n        time.sleep(3600)\n    return n";
    let tasks = |bench: &mut Bench, count: usize| -> Vec<_> {
        (0..count).map(|number| bench.task(source, &number.to_string())).collect()
    };
    let lesson = tasks(&mut bench, 50);
    bench.pool.start(lesson.clone());
    bench.outcomes_of(&lesson).await;
    // By now the function passes for a short one: hundreds of tasks are sent ahead, behind this one too.
    let long = bench.task(source, "-1");
    let short = tasks(&mut bench, 400);
    bench.pool.start([std::slice::from_ref(&long), &short[..]].concat());
    assert_eq!(bench.outcomes_of(&short).await.len(), 400);
    bench.pool.cancel(&[long.attempt_id()]);
    assert_eq!(bench.outcome(long.attempt_id()).await.kind, OutcomeKind::Cancelled);
    bench.finish().await;
}

#[tokio::test]
async fn large_payloads_go_through_in_both_directions() {
    let mut bench = Bench::new(2).await;
    let text = "x".repeat(8 << 20);
    let tasks: Vec<_> =
        (0..4).map(|_| bench.task("def f(text):\n    return text[::-1]", &format!("\"{text}\""))).collect();
    bench.pool.start(tasks.clone());
    for outcome in bench.outcomes_of(&tasks).await {
        assert_eq!(outcome.payload.len(), text.len() + 2, "{:?}", outcome.failure());
    }
    bench.finish().await;
}

#[tokio::test]
async fn modules_are_imported_once_and_worker_init_comes_first() {
    let modules = tempfile::tempdir().unwrap();
    std::fs::write(modules.path().join("prepared.py"), "import os\nZYGOTE = os.getpid()\n").unwrap();
    let init = format!("export PYTHONPATH='{}'\ncat\nexport FROM_INIT='it''s set'", modules.path().display());
    let mut bench = Bench::with(2, |mut config| {
        config.worker_init = Some(init);
        config.preload = vec!["prepared".to_owned(), "no_such_module".to_owned()];
        config.environment.insert("FROM_CONFIG".into(), "set too".into());
        config
    })
    .await;
    let source = "import os, prepared\ndef f():\n    return [prepared.ZYGOTE == os.getppid(), os.environ['FROM_INIT'], \
                  os.environ['FROM_CONFIG']]";
    let outcome = bench.run_source(source, "").await;
    assert_eq!(value(&outcome), r#"[true, "its set", "set too"]"#);
    bench.finish().await;
}

#[tokio::test]
async fn more_functions_than_a_worker_keeps() {
    let mut bench = Bench::new(1).await;
    let count = funcx_core::model::limit::MAX_WORKER_FUNCTIONS + 50;
    for round in 0..2 {
        for number in 0..count {
            let outcome = bench.run_source(&format!("def f():\n    return {number}"), "").await;
            assert_eq!(value(&outcome), number.to_string(), "round {round}");
        }
    }
    bench.finish().await;
}

#[tokio::test]
async fn tasks_that_may_run_once_or_have_a_walltime_are_reported_as_they_start() {
    let mut bench = Bench::new(1).await;
    let body = Function::python("f", "def f():\n    return 1");
    let once = bench.task_of(body.clone(), "", |spec| spec.limits.max_attempts = 1);
    let timed = bench.task_of(body, "", |spec| spec.shape.walltime = Some(Duration::from_secs(60)));
    bench.pool.start(vec![once.clone(), timed.clone()]);
    bench.outcomes_of(&[once.clone(), timed.clone()]).await;
    assert_eq!(bench.started, [once.attempt_id(), timed.attempt_id()]);
    bench.finish().await;
}
