//! The `funcx` command as a process, against a fabric of real processes: what it prints where, and how it ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use funcx_daemons::exit::Exit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Python functions to run.
const SOURCE: &str = "\
import os
import time

def mean(values, scale=1):
    print('adding up')
    return sum(values) / len(values) * scale

def greet(name):
    return 'hello ' + name

def nothing():
    return None

def bad():
    raise ValueError('oh dear')

def slow():
    print('begun', flush=True)
    time.sleep(600)

def now():
    return time.time_ns()

def when(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return path
";

/// What a command gave.
struct Said {
    exit: Option<i32>,
    out: String,
    aside: String,
}

impl Said {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { exit: output.status.code(), out: text(output.stdout), aside: text(output.stderr) }
    }

    /// Standard output, if the command ended so.
    #[track_caller]
    fn out(self, exit: Exit) -> String {
        assert_eq!(self.exit, Some(exit as i32), "{}\n{}", self.out, self.aside);
        self.out
    }

    /// Standard error, if the command ended so and printed no answer.
    #[track_caller]
    fn aside(self, exit: Exit) -> String {
        assert_eq!(self.exit, Some(exit as i32), "{}\n{}", self.out, self.aside);
        assert_eq!(self.out, "");
        self.aside
    }

    #[track_caller]
    fn json(self, exit: Exit) -> Value {
        let out = self.out(exit);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}

/// A home directory of its own, and the command in it.
struct Desk {
    home: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        fs::write(home.path().join("functions.py"), SOURCE).expect("a file");
        Self { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_funcx"));
        command.args(arguments).current_dir(self.home.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FUNCX_")) {
            command.env_remove(name);
        }
        command.env("FUNCX_DIR", self.path("funcx"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::new(self.command(arguments).output().expect("the program starts"))
    }
}

/// A running fabric with two workers, and somebody who may use it.
struct Fabric {
    desk: Desk,
    up: Child,
    ready: Value,
}

impl Fabric {
    fn start() -> Self {
        let desk = Desk::new();
        let mut up = desk
            .command(&["up", "--json", "--port", "0", "--workers", "2"])
            .stdout(Stdio::piped())
            .stderr(fs::File::create(desk.path("up.log")).expect("a file"))
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(up.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let log = || fs::read_to_string(desk.path("up.log")).unwrap_or_default();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}\n{}", log()));
        Self { desk, up, ready }
    }

    fn field(&self, name: &str) -> &str {
        self.ready[name].as_str().expect("a text")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.desk.command(arguments);
        command.env("FUNCX_SERVICE", self.field("service")).env("FUNCX_TOKEN", self.field("token"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::new(self.command(arguments).output().expect("the program starts"))
    }

    /// Runs a command that reads this.
    fn run_with(&self, arguments: &[&str], input: &str) -> Said {
        let path = self.desk.path("input");
        fs::write(&path, input).expect("a file");
        let input = fs::File::open(path).expect("a file");
        Said::new(self.command(arguments).stdin(input).output().expect("the program starts"))
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        interrupt(&self.up, Signal::SIGTERM);
        let _ = self.up.wait();
    }
}

fn interrupt(process: &Child, signal: Signal) {
    let id = i32::try_from(process.id()).expect("a process id");
    let _ = kill(Pid::from_raw(id), signal);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn a_function_of_a_file_is_run_and_its_value_printed() {
    let fabric = Fabric::start();
    let mean = fabric.run(&["run", "functions.py:mean", "[1, 2, 6]", "scale=2"]);
    assert_eq!((mean.out.as_str(), mean.aside.as_str(), mean.exit), ("6.0\n", "adding up\n", Some(0)));
    assert_eq!(fabric.run(&["run", "functions.py:greet", "you"]).out(Exit::Success), "hello you\n");
    assert_eq!(fabric.run(&["run", "functions.py:nothing"]).out(Exit::Success), "null\n");
    let task = fabric.run(&["run", "--json", "functions.py:nothing"]).json(Exit::Success);
    assert_eq!((&task["outcome"], task.get("result")), (&"returned".into(), Some(&Value::Null)));

    let endpoint = fabric.field("endpoint_id");
    let named = fabric.run(&["run", "--endpoint", "local", "functions.py:greet", "name=\"1\""]);
    assert_eq!(named.out(Exit::Success), "hello 1\n");
    let by_id = fabric.run(&["run", "-e", endpoint, "--shell", "echo {word}; echo aside >&2", "word=hello"]);
    assert_eq!((by_id.out.as_str(), by_id.aside.as_str(), by_id.exit), ("hello\n", "aside\n", Some(0)));
}

#[test]
fn what_goes_wrong_is_said_and_has_its_exit_code() {
    let fabric = Fabric::start();
    let bad = fabric.run(&["run", "functions.py:bad"]).aside(Exit::TaskFailed);
    assert!(bad.contains("ValueError: oh dear") && bad.contains("line "), "{bad}");
    let task = fabric.run(&["run", "--json", "functions.py:bad"]).json(Exit::TaskFailed);
    assert_eq!(task["outcome"], "raised");
    fabric.run(&["run", "--shell", "exit 3"]).aside(Exit::TaskFailed);
    let late = fabric.run(&["run", "--walltime", "0.2 s", "functions.py:slow"]).aside(Exit::TaskFailed);
    assert!(late.contains("timed-out"), "{late}");

    let several = fabric.run(&["run", "functions.py"]).aside(Exit::Usage);
    assert!(several.contains("mean, greet, nothing, bad, slow"), "{several}");
    fabric.run(&["run", "no-such-file.py"]).aside(Exit::Usage);
    fabric.run(&["run", "functions.py:greet", "a=1", "a=2"]).aside(Exit::Usage);
    fabric.run(&["run", "--walltime", "soon", "functions.py:bad"]).aside(Exit::Usage);
    let nowhere =
        fabric.run(&["run", "--endpoint", "nowhere", "functions.py:bad"]).aside(Exit::NoSuchEndpoint);
    assert!(nowhere.contains("funcx endpoint list"), "{nowhere}");

    let stranger =
        Said::new(fabric.command(&["task", "list"]).env("FUNCX_TOKEN", "wrong").output().expect("output"));
    let stranger = stranger.aside(Exit::Credentials);
    assert!(stranger.contains("funcx token create") && !stranger.contains("wrong"), "{stranger}");
}

#[test]
fn tasks_functions_and_endpoints_are_listed_shown_and_cancelled() {
    let fabric = Fabric::start();
    let registered = fabric.run(&[
        "function",
        "register",
        "functions.py",
        "--entry",
        "greet",
        "--description",
        "says hello",
    ]);
    let function = registered.out(Exit::Success).trim_end().to_owned();
    let listed = fabric.run(&["function", "list"]).out(Exit::Success);
    assert!(listed.contains(&function) && listed.contains("greet"), "{listed}");
    let shown = fabric.run(&["function", "show", &function]).out(Exit::Success);
    assert!(shown.contains("says hello") && shown.ends_with(SOURCE), "{shown}");

    let returned = fabric.run(&["run", "--no-wait", "--function", &function, "you"]).out(Exit::Success);
    let returned = returned.trim_end();
    assert_eq!(fabric.run(&["task", "result", "--wait", returned]).out(Exit::Success), "hello you\n");
    assert_eq!(fabric.run(&["task", "result", returned]).out(Exit::Success), "hello you\n");
    let slow = fabric.run(&["run", "--no-wait", "--json", "functions.py:slow"]).json(Exit::Success);
    let slow = slow["task_id"].as_str().expect("an id");
    let unfinished = fabric.run(&["task", "result", slow]).aside(Exit::WrongState);
    assert!(unfinished.contains("has not ended"), "{unfinished}");
    let cancelled = fabric.run(&["task", "cancel", "--wait", slow]).out(Exit::Success);
    assert_eq!(cancelled, "1 stopped\n");
    assert_eq!(fabric.run(&["task", "cancel", slow]).out(Exit::Success), "1 ended before\n");
    let cancelled = fabric.run(&["task", "result", "--wait", slow]).aside(Exit::TaskFailed);
    assert!(cancelled.contains("cancelled"), "{cancelled}");
    let shown = fabric.run(&["task", "show", slow]).out(Exit::Success);
    assert!(shown.contains("cancelled") && shown.contains(slow), "{shown}");
    let unknown = format!("1 unknown\nthere is no task {function}\n");
    assert_eq!(fabric.run(&["task", "cancel", &function]).out(Exit::Failure), unknown);
    let timeline = fabric.run(&["task", "timeline", returned]).out(Exit::Success);
    // Columns are as wide as their widest entry.
    let rows: Vec<String> =
        timeline.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for (row, word) in rows.iter().skip(2).zip(["AFTER", "0.000 ms accepted", "", "", "", "", "", ""]) {
        assert!(row.starts_with(word), "{timeline}");
    }
    assert!(rows[0].contains("returned") && timeline.contains("Python 3."), "{timeline}");
    let timeline = fabric.run(&["task", "timeline", "--json", returned]).json(Exit::Success);
    let words: Vec<_> =
        timeline["transitions"].as_array().expect("rows").iter().map(|row| row["what"].clone()).collect();
    assert_eq!(words.len(), 9, "every hop and the end: {timeline}");

    let page = fabric.run(&["task", "list", "--json", "--limit", "1"]).json(Exit::Success);
    assert_eq!(page["tasks"][0]["task_id"], returned);
    let next = page["next"].as_str().expect("a cursor");
    let page = fabric.run(&["task", "list", "--json", "--after", next]).json(Exit::Success);
    assert_eq!(page["tasks"][0]["task_id"], slow);

    let endpoint = fabric.run(&["endpoint", "show", "--json"]).json(Exit::Success);
    assert_eq!((&endpoint["endpoint_id"], &endpoint["workers"]), (&fabric.ready["endpoint_id"], &2.into()));
    let listed = fabric.run(&["endpoint", "list"]).out(Exit::Success);
    assert!(listed.contains("local") && listed.contains("connected"), "{listed}");
}

#[test]
fn an_interrupt_cancels_the_task() {
    let fabric = Fabric::start();
    let mut run = fabric
        .command(&["run", "functions.py:slow"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The task exists once the service lists it; from then on, or a moment before, the command waits for it.
    let task = loop {
        let page = fabric.run(&["task", "list", "--json"]).json(Exit::Success);
        if let Some(task) = page["tasks"].as_array().and_then(|tasks| tasks.first()) {
            break task["task_id"].as_str().expect("an id").to_owned();
        }
        assert!(run.try_wait().expect("a status").is_none());
    };
    interrupt(&run, Signal::SIGINT);
    let said = Said::new(run.wait_with_output().expect("output"));
    assert_eq!(said.exit, Some(Exit::TaskFailed as i32), "{}", said.aside);
    let shown = fabric.run(&["task", "show", "--json", &task]).json(Exit::Success);
    assert_eq!(shown["outcome"], "cancelled");
}

#[test]
fn a_function_is_mapped_over_lines() {
    let fabric = Fabric::start();
    let lines = "[[1, 2]]\n\n{\"values\": [4], \"scale\": 2}\n[[]]\n[[3], 3]\n";
    for chunk in [&[][..], &["--chunk", "1"], &["--chunk", "3"], &["--chunk", "65536"]] {
        let said = fabric.run_with(&[&["map", "functions.py:mean"], chunk].concat(), lines);
        assert!(
            said.aside.contains("adding up") && said.aside.contains("ZeroDivisionError"),
            "{}",
            said.aside
        );
        assert!(
            said.aside.contains("call 2: Traceback") && said.aside.ends_with("1 calls failed\n"),
            "{}",
            said.aside
        );
        let out = said.out(Exit::TaskFailed);
        let rows: Vec<_> = out.lines().collect();
        assert_eq!((rows.len(), rows[0], rows[1], rows[3]), (4, "1.5", "8.0", "9.0"), "{out}");
        assert_eq!(rows[2], "error: ZeroDivisionError: division by zero");
    }
    let said = fabric.run_with(&["map", "--json", "functions.py:mean"], lines).out(Exit::TaskFailed);
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&rows[3]["index"], &rows[3]["value"]), (&3.into(), &9.0.into()));
    assert_eq!(
        (&rows[2]["outcome"], &rows[2]["failure"]["code"]),
        (&"raised".into(), &"RemoteExecutionError".into())
    );

    let native: String = (1..=3).map(|_| "[1, 2, 3]\n").collect();
    let registered = fabric.run(&["function", "register", "functions.py", "--entry", "greet"]);
    let function = registered.out(Exit::Success).trim_end().to_owned();
    let greeted = fabric.run_with(&["map", "--function", &function, "--input", "-"], "you\n\"all of\\nyou\"");
    assert_eq!(greeted.out(Exit::Success), "\"hello you\"\n\"hello all of\\nyou\"\n");
    fs::write(fabric.desk.path("lines"), native).expect("a file");
    let echoed = fabric.run(&["map", "--native", "funcx.echo", "--input", "lines", "--endpoint", "local"]);
    assert_eq!(echoed.out(Exit::Success), "[1, 2, 3]\n".repeat(3));
    assert_eq!(fabric.run_with(&["map", "functions.py:greet"], "\n \n").out(Exit::Success), "");
}

#[test]
fn what_is_wrong_with_a_map_is_said_before_it_begins() {
    let fabric = Fabric::start();
    let cut = fabric.run_with(&["map", "functions.py:greet"], "1\n[2").aside(Exit::Usage);
    assert!(cut.contains("line 2: not JSON"), "{cut}");
    for chunk in ["0", "65537", "-1", "18446744073709551616", "many"] {
        let said = fabric.run_with(&["map", "--chunk", chunk, "functions.py:greet"], "1").aside(Exit::Usage);
        assert!(said.contains("1..=65536"), "{said}");
    }
    fabric.run_with(&["map"], "1").aside(Exit::Usage);
    fabric.run_with(&["map", "functions.py:greet", "--input", "nowhere"], "1").aside(Exit::Usage);
    let shell = fabric.run(&["function", "register", "--shell", "true"]).out(Exit::Success);
    let shell = fabric.run_with(&["map", "--function", shell.trim_end()], "1").aside(Exit::Usage);
    assert!(shell.contains("cannot be mapped") && shell.contains("funcx run"), "{shell}");
    assert_eq!(fabric.run(&["task", "list", "--json"]).json(Exit::Success)["tasks"], serde_json::json!([]));
}

#[test]
fn a_purged_value_is_made_anew() {
    let fabric = Fabric::start();
    let now = || fabric.run(&["run", "--memoize", "functions.py:now"]).out(Exit::Success);
    let value = now();
    assert_eq!(now(), value);
    let page = fabric.run(&["task", "list", "--json"]).json(Exit::Success);
    let tasks = page["tasks"].as_array().expect("tasks");
    let ids = tasks.iter().map(|task| task["task_id"].as_str().expect("an id"));
    let purge: Vec<&str> = ["task", "purge"].into_iter().chain(ids).collect();
    fabric.run(&purge).out(Exit::Success);
    assert_ne!(now(), value);
}

#[test]
fn an_interrupt_cancels_the_chunks_of_a_map() {
    let fabric = Fabric::start();
    fs::write(fabric.desk.path("lines"), "[]\n".repeat(7)).expect("a file");
    let mut run = fabric
        .command(&["map", "functions.py:slow", "--chunk", "2", "--input", "lines"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    loop {
        let page = fabric.run(&["task", "list", "--json"]).json(Exit::Success);
        let tasks = page["tasks"].as_array().expect("tasks");
        if tasks.iter().filter(|task| task["status"] == "running").count() == 2 {
            assert_eq!(tasks.len(), 4);
            break;
        }
        assert!(run.try_wait().expect("a status").is_none());
    }
    interrupt(&run, Signal::SIGINT);
    let said = Said::new(run.wait_with_output().expect("output"));
    assert!(said.aside.contains("cancelling the 7 calls"), "{}", said.aside);
    let out = said.out(Exit::TaskFailed);
    assert_eq!(out.lines().filter(|line| line.starts_with("error: cancelled: ")).count(), 7, "{out}");
}

#[test]
fn an_interrupt_while_a_map_is_submitted_cancels_what_was_accepted() {
    let fabric = Fabric::start();
    fs::write(fabric.desk.path("lines"), "[]\n".repeat(50_000)).expect("a file");
    let run = fabric
        .command(&["map", "functions.py:slow", "--chunk", "1", "--input", "lines"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let load = || {
        let list = fabric.run(&["endpoint", "list", "--json"]).json(Exit::Success);
        let of = |name| list[0][name].as_u64().expect("a number");
        of("queued") + of("leased")
    };
    while load() == 0 {}
    interrupt(&run, Signal::SIGINT);
    let said = Said::new(run.wait_with_output().expect("output"));
    assert!(said.exit.is_some_and(|exit| exit != 0) && said.aside.contains("cancelling"), "{}", said.aside);
    while load() > 0 {}
}

#[test]
fn a_map_ends_when_nobody_reads_its_results() {
    let fabric = Fabric::start();
    let lines =
        ["now", "then", "never", "never", "never"].map(|name| format!("{:?}\n", fabric.desk.path(name)));
    fs::write(fabric.desk.path("lines"), lines.concat()).expect("a file");
    fs::write(fabric.desk.path("now"), "").expect("a file");
    let mut run = fabric
        .command(&["map", "functions.py:when", "--chunk", "1", "--input", "lines"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut reader = BufReader::new(run.stdout.take().expect("a pipe"));
    reader.read_line(&mut String::new()).expect("a line");
    drop(reader);
    fs::write(fabric.desk.path("then"), "").expect("a file");
    let said = Said::new(run.wait_with_output().expect("output")).aside(Exit::Success);
    assert!(said.contains("nobody reads any further: cancelling 3 calls"), "{said}");
    let cancelled = || {
        let page = fabric.run(&["task", "list", "--json"]).json(Exit::Success);
        let tasks = page["tasks"].as_array().expect("tasks");
        tasks.iter().filter(|task| task["outcome"] == "cancelled").count()
    };
    while cancelled() < 3 {}
}

#[test]
fn latency_is_measured_hop_by_hop() {
    let fabric = Fabric::start();
    let rows =
        fabric.run(&["bench", "latency", "--calls", "5", "--warm-up", "1", "--json"]).json(Exit::Success);
    let ways: Vec<_> =
        rows.as_array().expect("rows").iter().map(|row| row["way"].as_str().expect("a way")).collect();
    assert_eq!(ways.len(), 11, "{ways:?}");
    assert_eq!((ways[0], ways[5], ways[10]), ("client → service", "execution", "total"));
    for row in rows.as_array().expect("rows") {
        assert_eq!(row["calls"], 5);
        assert!(row["p50_ms"].as_f64() <= row["p99_ms"].as_f64(), "{row}");
    }
}

#[test]
fn a_service_that_is_not_there_is_named_with_a_way_to_start_one() {
    let desk = Desk::new();
    let said = desk.run(&["endpoint", "list", "--service", "http://127.0.0.1:1"]).aside(Exit::Service);
    assert!(said.contains("http://127.0.0.1:1") && said.contains("funcx up"), "{said}");
    desk.run(&["endpoint", "list", "--service", "https://user:secret@example"]).aside(Exit::Failure);
}

#[test]
fn tokens_are_made_listed_and_revoked_without_a_service() {
    let desk = Desk::new();
    let token = desk
        .run(&["token", "create", "--name", "alice", "--expires", "30 d", "--label", "laptop"])
        .out(Exit::Success);
    assert!(token.starts_with("fnx_"), "one line with the token");
    let client = desk
        .run(&[
            "token", "create", "--name", "robot", "--scope", "compute", "--scope", "endpoint", "--client",
            "--json",
        ])
        .json(Exit::Success);
    assert!(client["client_id"].is_string() && client["client_secret"].is_string());

    let listed = desk.run(&["token", "list"]).out(Exit::Success);
    assert!(
        listed.contains("alice") && listed.contains("in 29 days") && listed.contains("laptop"),
        "{listed}"
    );
    assert!(!listed.contains(token.trim_end()), "secrets are not listed");
    let listed = desk.run(&["token", "list", "--json"]).json(Exit::Success);
    let listed = listed.as_array().expect("tokens");
    let robot = listed.iter().find(|token| token["kind"] == "client").expect("a client");
    assert_eq!(
        (&robot["id"], &robot["scopes"]),
        (&client["client_id"], &serde_json::json!(["compute", "endpoint"]))
    );
    for token in listed {
        desk.run(&["token", "revoke", token["id"].as_str().expect("an id")]).out(Exit::Success);
    }
    assert_eq!(desk.run(&["token", "list"]).out(Exit::Success), "there are no tokens\n");
    desk.run(&["token", "revoke", "nobody"]).aside(Exit::Failure);
    desk.run(&["token", "create", "--name", "alice", "--scope", "world"]).aside(Exit::Usage);
}

#[test]
fn a_saved_token_is_for_its_owner_only() {
    let desk = Desk::new();
    let path = desk.path("funcx/token");
    fs::create_dir_all(desk.path("funcx")).expect("a directory");
    fs::write(&path, "an old one, open to all").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    let refused = desk.run(&["task", "list"]).aside(Exit::Credentials);
    assert!(refused.contains("open to others") && !refused.contains("an old one"), "{refused}");

    let said = desk.run(&["token", "create", "--name", "alice", "--save"]).aside(Exit::Success);
    assert!(said.contains("funcx/token"), "{said}");
    assert_eq!(mode(&path), 0o600);
    assert!(fs::read_to_string(&path).expect("a token").starts_with("fnx_"));
    let missing = desk.run(&["task", "list", "--token-file", "nowhere"]).aside(Exit::Credentials);
    assert!(missing.contains("nowhere"), "{missing}");
}

#[test]
fn what_needs_no_service_works_without_one() {
    let desk = Desk::new();
    let limits = desk.run(&["limits"]).out(Exit::Success);
    assert!(limits.contains("MAX_FRAME_BYTES") && limits.contains("134 217 728"), "{limits}");
    let limits = desk.run(&["limits", "--json"]).json(Exit::Success);
    assert_eq!(limits.as_array().expect("rows").len(), funcx_core::model::limit::TABLE.len());
    for shell in ["bash", "zsh", "fish"] {
        assert!(desk.run(&["completions", shell]).out(Exit::Success).contains("funcx"), "{shell}");
    }
    desk.run(&["fly"]).aside(Exit::Usage);
    assert!(desk.run(&["--help"]).out(Exit::Success).contains("Exit codes:"));
}
