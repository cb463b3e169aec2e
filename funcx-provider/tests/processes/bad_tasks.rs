//! What tasks do wrong, and that it stays their own problem.

use std::time::Duration;

use funcx_core::contract::Executor;
use funcx_core::model::{Failure, Function, Outcome, OutcomeKind, Task};
use funcx_provider::worker::ProcessPoolConfig;

use crate::support::{Bench, gone, value};

/// The pool still works, with all its workers.
async fn still_works(mut bench: Bench) {
    let tasks: Vec<_> = (0..20).map(|n| bench.task("def f(n):\n    return n", &n.to_string())).collect();
    bench.pool.start(tasks.clone());
    for (number, outcome) in bench.outcomes_of(&tasks).await.iter().enumerate() {
        assert_eq!(value(outcome), number.to_string());
    }
    bench.finish().await;
}

fn failure(outcome: &Outcome, kind: OutcomeKind) -> Failure {
    assert_eq!(outcome.kind, kind, "{:?}", outcome.failure());
    outcome.failure().unwrap()
}

/// Runs one bad task among good ones. The good ones must not notice.
async fn among_others(bench: &mut Bench, bad: Task) -> Outcome {
    let mut tasks: Vec<_> = (0..40).map(|n| bench.task("def f(n):\n    return n", &n.to_string())).collect();
    let attempt = bad.attempt_id();
    tasks.insert(20, bad);
    bench.pool.start(tasks.clone());
    tasks.remove(20);
    for (number, outcome) in bench.outcomes_of(&tasks).await.iter().enumerate() {
        assert_eq!(value(outcome), number.to_string());
    }
    bench.outcome(attempt).await
}

#[tokio::test]
async fn it_raises() {
    let mut bench = Bench::new(1).await;
    let outcome = bench.run_source("def f():\n    return 1 / 0", "").await;
    let failure = failure(&outcome, OutcomeKind::Raised);
    assert!(
        failure.traceback.contains("ZeroDivisionError") && failure.traceback.contains("1 / 0"),
        "{failure:?}"
    );
    still_works(bench).await;
}

#[tokio::test]
async fn it_returns_what_cannot_be_serialized() {
    let mut bench = Bench::new(1).await;
    let outcome = bench.run_source("def f():\n    return lambda: 1", "").await;
    assert!(failure(&outcome, OutcomeKind::Raised).traceback.contains("cannot be written as JSON"));
    still_works(bench).await;
}

#[tokio::test]
async fn it_exits_politely() {
    let mut bench = Bench::new(1).await;
    let outcome = bench.run_source("import sys\ndef f():\n    sys.exit(4)", "").await;
    assert!(failure(&outcome, OutcomeKind::Raised).traceback.contains("SystemExit"));
    still_works(bench).await;
}

#[tokio::test]
async fn it_prints_a_hundred_megabytes() {
    let mut bench = Bench::new(1).await;
    let source = "import sys\ndef f():\n    for _ in range(100):\n        print('x' * (1 << 20))\n    print('the end')";
    let outcome = bench.run_source(source, "").await;
    assert_eq!(value(&outcome), "null");
    assert!(outcome.stdout.ends_with(b"the end\n"));
    assert!(outcome.stdout.len() < (64 << 10) + 100, "{} bytes", outcome.stdout.len());
    still_works(bench).await;
}

#[tokio::test]
async fn it_returns_more_than_is_allowed() {
    let mut bench = Bench::new(1).await;
    let outcome = bench.run_source("def f():\n    return 'x' * (100 << 20)", "").await;
    assert_eq!(failure(&outcome, OutcomeKind::Raised).code, "MaxResultSizeExceeded");
    still_works(bench).await;
}

#[tokio::test]
async fn it_leaves_its_process() {
    let mut bench = Bench::new(2).await;
    let bad = bench.task("import os\ndef f():\n    os._exit(42)", "");
    let outcome = among_others(&mut bench, bad).await;
    let failure = failure(&outcome, OutcomeKind::Lost);
    assert_eq!(failure.code, "WorkerLost");
    assert_eq!(failure.message, "the worker process exited with code 42 while it ran this task");
    still_works(bench).await;
}

#[tokio::test]
async fn it_kills_its_group() {
    let mut bench = Bench::new(2).await;
    let bad = bench.task("import os\ndef f():\n    os.killpg(0, 9)", "");
    let outcome = among_others(&mut bench, bad).await;
    assert!(failure(&outcome, OutcomeKind::Lost).message.contains("was killed by signal 9"));
    still_works(bench).await;
}

#[tokio::test]
async fn many_of_them_leave_their_processes() {
    let mut bench = Bench::new(2).await;
    let source = "import os\ndef f(n):\n    return n if n % 10 else os._exit(1)";
    let tasks: Vec<_> = (0..100).map(|n| bench.task(source, &n.to_string())).collect();
    bench.pool.start(tasks.clone());
    for (number, outcome) in bench.outcomes_of(&tasks).await.iter().enumerate() {
        match number % 10 {
            0 => assert_eq!(failure(outcome, OutcomeKind::Lost).code, "WorkerLost"),
            _ => assert_eq!(value(outcome), number.to_string()),
        }
    }
    still_works(bench).await;
}

#[tokio::test]
async fn it_recurses_without_end() {
    let mut bench = Bench::new(1).await;
    let outcome = bench.run_source("def f():\n    return f()", "").await;
    assert!(failure(&outcome, OutcomeKind::Raised).traceback.contains("RecursionError"));
    // Without Python's own limit, the stack of the process ends.
    let source = "import sys\ndef f():\n    sys.setrecursionlimit(10**9)\n    def deep(x):\n        return sorted([x], \
                  key=deep)\n    return deep(1)";
    let task = bench.task(source, "");
    let outcome = among_others(&mut bench, task).await;
    assert!(failure(&outcome, OutcomeKind::Lost).message.contains("was killed by signal"));
    still_works(bench).await;
}

#[tokio::test]
async fn it_sleeps_past_its_walltime() {
    let mut bench = Bench::new(2).await;
    let function = Function::python("f", "import time\ndef f():\n    time.sleep(3600)");
    let bad = bench.task_of(function, "", |spec| spec.shape.walltime = Some(Duration::from_millis(200)));
    let outcome = among_others(&mut bench, bad).await;
    let failure = failure(&outcome, OutcomeKind::TimedOut);
    assert_eq!(failure.code, "TaskTimedOut");
    assert!(failure.message.contains("200ms"), "{failure:?}");
    still_works(bench).await;
}

#[tokio::test]
async fn many_of_them_sleep_past_their_walltime() {
    let mut bench = Bench::new(2).await;
    let function =
        Function::python("f", "import time\ndef f(n):\n    time.sleep(0 if n % 4 else 3600)\n    return n");
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let walltime = Some(Duration::from_millis(300));
            bench.task_of(function.clone(), &n.to_string(), |spec| spec.shape.walltime = walltime)
        })
        .collect();
    bench.pool.start(tasks.clone());
    for (number, outcome) in bench.outcomes_of(&tasks).await.iter().enumerate() {
        match number % 4 {
            0 => drop(failure(outcome, OutcomeKind::TimedOut)),
            _ => assert_eq!(value(outcome), number.to_string()),
        }
    }
    still_works(bench).await;
}

#[tokio::test]
async fn it_forks_a_child_that_outlives_it() {
    let mut bench = Bench::new(1).await;
    let source = "import os, time\ndef f():\n    pid = os.fork()\n    if pid == 0:\n        time.sleep(3600)\n    return pid";
    let child = bench.run_source(source, "").await;
    let child: u32 = value(&child).parse().unwrap();
    let started = "import subprocess\ndef f():\n    return subprocess.Popen(['sleep', '3600']).pid";
    let program: u32 = value(&bench.run_source(started, "").await).parse().unwrap();
    still_works(bench).await;
    gone(child).await;
    gone(program).await;
}

#[tokio::test]
async fn its_worker_is_killed_from_outside() {
    let mut bench = Bench::new(1).await;
    let pid = bench.run_source("import os\ndef f():\n    return os.getpid()", "").await;
    let pid: i32 = value(&pid).parse().unwrap();
    let sleeper = bench.task("import time\ndef f():\n    time.sleep(3600)", "");
    bench.pool.start(vec![sleeper.clone()]);
    bench.started(sleeper.attempt_id()).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let outcome = bench.outcome(sleeper.attempt_id()).await;
    assert!(failure(&outcome, OutcomeKind::Lost).message.contains("signal 9"));
    still_works(bench).await;
}

#[tokio::test]
async fn it_kills_the_zygote() {
    let mut bench = Bench::new(2).await;
    let source = "import os, time\ndef f():\n    os.kill(os.getppid(), 9)\n    time.sleep(3600)";
    let function = Function::python("f", source);
    let bad = bench.task_of(function, "", |spec| spec.limits.max_attempts = 1);
    let outcome = among_others(&mut bench, bad).await;
    assert_eq!(failure(&outcome, OutcomeKind::Lost).code, "WorkerLost");
    still_works(bench).await;
}

#[tokio::test]
async fn it_closes_everything_it_finds() {
    let mut bench = Bench::new(2).await;
    let bad = bench.task("import os, time\ndef f():\n    os.closerange(0, 1000)\n    time.sleep(3600)", "");
    let outcome = among_others(&mut bench, bad).await;
    assert!(failure(&outcome, OutcomeKind::Lost).message.contains("it closed its connection"));
    still_works(bench).await;
}

#[tokio::test]
async fn it_writes_to_the_socket_of_its_worker() {
    let mut bench = Bench::new(2).await;
    // The highest descriptors are the worker's own; what is written there is no frame.
    let source = "import os, stat\ndef f():\n    for fd in range(3, 64):\n        try:\n            if \
                  stat.S_ISSOCK(os.fstat(fd).st_mode):\n                os.write(fd, b'x' * 64)\n        except \
                  OSError:\n            pass";
    let bad = bench.task(source, "");
    let outcome = among_others(&mut bench, bad).await;
    assert!(failure(&outcome, OutcomeKind::Lost).message.contains("broke the protocol"));
    still_works(bench).await;
}

#[tokio::test]
async fn it_is_a_shell_command_that_is_cancelled() {
    let mut bench = Bench::new(1).await;
    // One that listens, and one that does not.
    for trap in ["", "trap '' TERM; "] {
        let template = format!("{trap}sleep 3600 & echo $! > {{0}}; wait; sleep 3600");
        let (task, pid) = bench.start_shell(&template).await;
        bench.pool.cancel(&[task.attempt_id()]);
        assert_eq!(bench.outcome(task.attempt_id()).await.kind, OutcomeKind::Cancelled);
        gone(pid.trim().parse().unwrap()).await;
    }
    still_works(bench).await;
}

#[tokio::test]
async fn many_of_them_are_shell_commands_that_are_cancelled_as_they_start() {
    let mut bench = Bench::new(20).await;
    let tasks: Vec<_> = (0..40).map(|_| bench.task_of(Function::shell("sleep 3600"), "", |_| {})).collect();
    bench.pool.start(tasks.clone());
    // Some have a process by now, some may have none, and half of them wait.
    bench.started(tasks[0].attempt_id()).await;
    bench.pool.cancel(&tasks.iter().map(Task::attempt_id).collect::<Vec<_>>());
    for outcome in bench.outcomes_of(&tasks).await {
        assert_eq!(outcome.kind, OutcomeKind::Cancelled);
    }
    still_works(bench).await;
}

#[tokio::test]
async fn it_is_a_shell_command_past_its_walltime() {
    let mut bench = Bench::new(1).await;
    let walltime = Some(Duration::from_millis(200));
    let task = bench.task_of(Function::shell("sleep 3600; true"), "", |spec| spec.shape.walltime = walltime);
    let outcome = bench.run(task).await;
    assert_eq!(failure(&outcome, OutcomeKind::TimedOut).code, "TaskTimedOut");
    still_works(bench).await;
}

#[tokio::test]
async fn it_is_a_shell_command_that_cannot_be_run() {
    let mut bench = Bench::with(1, |config| ProcessPoolConfig { max_result_bytes: 1000, ..config }).await;
    let cases = [
        ("echo {missing}", "RemoteExecutionError", "KeyError: 'missing'"),
        ("echo {0.a}", "RemoteExecutionError", "AttributeError"),
        ("head -c 2000 /dev/zero", "MaxResultSizeExceeded", "exceeded current limit of 1000B"),
    ];
    for (template, code, traceback) in cases {
        let task = bench.task_of(Function::shell(template), "1", |_| {});
        let failure = failure(&bench.run(task).await, OutcomeKind::Raised);
        assert!(failure.code == code && failure.traceback.contains(traceback), "{failure:?}");
    }
    still_works(bench).await;
}

#[tokio::test]
async fn it_is_a_shell_command_that_kills_the_zygote() {
    let mut bench = Bench::new(2).await;
    let (bystander, pid) = bench.start_shell("sleep 3600 & echo $! > {0}; wait").await;
    // Not before it is known to have begun: then nobody could tell.
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let command = format!("until [ -e '{}' ]; do sleep 0.01; done; kill -9 $PPID; sleep 3600", go.display());
    let task = bench.task_of(Function::shell(command), "", |_| {});
    bench.pool.start(vec![task.clone()]);
    bench.started(task.attempt_id()).await;
    std::fs::write(go, "").unwrap();
    let outcome = bench.outcome(task.attempt_id()).await;
    assert_eq!(failure(&outcome, OutcomeKind::Lost).code, "WorkerLost");
    assert_eq!(failure(&bench.outcome(bystander.attempt_id()).await, OutcomeKind::Lost).code, "WorkerLost");
    gone(pid.trim().parse().unwrap()).await;
    still_works(bench).await;
}

#[tokio::test]
async fn it_does_not_listen_when_it_is_cancelled() {
    let mut bench = Bench::new(1).await;
    let source = "import signal, time\ndef f():\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    while \
                  True:\n        time.sleep(1)";
    let task = bench.task(source, "");
    bench.pool.start(vec![task.clone()]);
    bench.started(task.attempt_id()).await;
    bench.pool.cancel(&[task.attempt_id()]);
    assert_eq!(bench.outcome(task.attempt_id()).await.kind, OutcomeKind::Cancelled);
    still_works(bench).await;
}
