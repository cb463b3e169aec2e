//! `funcx bench` as a user runs it: the binary, from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The command, with a directory of its own for temporary files.
fn bench(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_funcx"));
    command.arg("bench").args(arguments).env("TMPDIR", temporary).current_dir(temporary);
    command
}

fn run(temporary: &Path, arguments: &[&str]) -> Output {
    bench(temporary, arguments).output().unwrap()
}

/// Processes of anybody whose command line or environment names this directory.
fn processes_of(directory: &Path) -> Vec<u32> {
    let named = |pid: u32| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = [read("cmdline"), read("environ")].concat();
        String::from_utf8_lossy(&text).contains(directory.to_str().unwrap())
    };
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id() && named(*pid)).collect()
}

fn assert_nothing_is_left(temporary: &TempDir) {
    let files: Vec<_> =
        std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files, Vec::<std::path::PathBuf>::new());
    // What was killed is gone a moment later.
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let processes = processes_of(temporary.path());
        if processes.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{processes:?} are left");
        std::thread::yield_now();
    }
}

#[test]
fn an_experiment_gives_a_table_a_document_and_plots() {
    let (temporary, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let sizes = ["--quick", "--workers", "3,70", "--tasks", "500", "--runs", "2", "--longest", "1"];
    let directory = output.path().join("new/directory");
    let done = run(
        temporary.path(),
        &[&["strong-scaling"], &sizes[..], &["--output", directory.to_str().unwrap()]].concat(),
    );
    let table = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for part in ["500 tasks", "workers", "no-op, here", "left out", "published: funcX"] {
        assert!(table.to_lowercase().contains(&part.to_lowercase()), "no {part:?} in {table}");
    }
    let document = std::fs::read(directory.join("strong-scaling.json")).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let rates = &document["charts"][1]["series"];
    assert_eq!(rates[0]["points"].as_array().unwrap().len(), 2, "{rates}");
    assert_eq!(rates[0]["points"][1]["y"]["values"], 2);
    assert!(rates[1]["source"].as_str().unwrap().contains("TPDS 2022"));
    for fact in ["cores", "cpu", "kernel", "memory_gib", "funcx", "build", "python", "date", "command"] {
        assert!(!document["machine"][fact].is_null(), "{fact}");
    }
    let plot = std::fs::read_to_string(directory.join("strong-scaling-1.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("100 ms, here"), "{plot}");
    assert_nothing_is_left(&temporary);
}

#[test]
fn sizes_that_make_no_sense_are_refused_with_the_range_that_does() {
    let temporary = tempfile::tempdir().unwrap();
    for (arguments, range) in [
        (["strong-scaling", "--workers", "64,0"], "1..=1048576"),
        (["strong-scaling", "--workers", "1048577"], "1..=1048576"),
        (["strong-scaling", "--tasks", "0"], "1..=100000000"),
        (["weak-scaling", "--workers", "0"], "1..=1048576"),
        (["prefetch", "--prefetch", "65537"], "0..=65536"),
        (["internal-batching", "--tasks", "0"], "1..=100000000"),
        (["map", "--chunks", "0"], "1..=4096"),
        (["memoization", "--calls", "0"], "1..=10000000"),
        (["warm-routing", "--tasks", "0"], "1..=100000"),
        (["latency-breakdown", "--calls", "0"], "1..=10000000"),
        (["start-times", "--cold", "0"], "1..=100000"),
        (["growth-tasks", "--tasks", "0"], "1..=100000000"),
        (["growth-workers", "--workers", "0"], "1..=1048576"),
        (["growth-managers", "--managers", "8193"], "1..=8192"),
        (["growth-payload", "--bytes", "67108865"], "0..=67108864"),
        (["growth-clients", "--clients", "4097"], "1..=4096"),
        (["all", "--runs", "0"], "1..=100"),
        (["all", "--longest", "0"], "1..=86400"),
    ] {
        let refused = run(temporary.path(), &arguments);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(arguments[1]), "{arguments:?}: {said}");
        assert!(said.contains(range), "{arguments:?}: {said}");
    }
    assert_nothing_is_left(&temporary);
}

#[test]
fn growth_has_a_figure_for_each_size() {
    let temporary = tempfile::tempdir().unwrap();
    let sizes = ["growth-tasks", "--quick", "--tasks", "100,2000", "--json"];
    let done = run(temporary.path(), &sizes);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    for chart in document["charts"].as_array().unwrap() {
        let points = chart["series"][0]["points"].as_array().unwrap();
        assert_eq!(points.len(), 2, "{chart}");
        assert!(points.iter().all(|point| point["y"]["median"].as_f64().unwrap() > 0.0), "{chart}");
    }
    assert_nothing_is_left(&temporary);
}

/// Sends a signal to an experiment with real processes as soon as it has begun to call them.
fn interrupt(signal: Signal) {
    let temporary = tempfile::tempdir().unwrap();
    let mut running = bench(temporary.path(), &["latency-breakdown", "--calls", "10000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("calls with 0 ms")), "it did not begin");
    assert!(!processes_of(temporary.path()).is_empty());
    kill(Pid::from_raw(running.id() as i32), signal).unwrap();
    let said: Vec<_> = said.map(Result::unwrap).collect();
    assert_eq!(running.wait().unwrap().code(), Some(1), "{said:?}");
    assert!(said.iter().any(|line| line.contains("interrupted")), "{said:?}");
    assert_nothing_is_left(&temporary);
}

#[test]
fn an_experiment_that_is_interrupted_leaves_nothing_behind() {
    interrupt(Signal::SIGINT);
}

#[test]
fn an_experiment_that_is_told_to_end_leaves_nothing_behind() {
    interrupt(Signal::SIGTERM);
}

#[test]
fn an_experiment_that_fails_says_why_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let failed = run(temporary.path(), &["latency-breakdown", "--quick", "--python", "/nowhere/python"]);
    let said = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("latency-breakdown") && said.contains("/nowhere/python"), "{said}");
    assert_nothing_is_left(&temporary);
}
