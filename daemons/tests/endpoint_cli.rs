//! `funcx-endpoint` as a process: what it writes, says and answers, and with which exit code.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use funcx_daemons::exit::Exit;

/// A directory of endpoints of its own, and the program to use it with.
struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_funcx-endpoint"));
        command.args(arguments).env("FUNCX_DIR", self.directory.path()).stdin(Stdio::null());
        for name in ["FUNCX_TOKEN", "FUNCX_SERVICE", "FUNCX_LOG", "FUNCX_LOG_FORMAT"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command that is expected to end with this code; its standard output, or its standard error if it fails.
    fn run(&self, exit: Exit, arguments: &[&str]) -> String {
        check(exit, &self.command(arguments).output().expect("the program starts"))
    }

    fn file(&self, path: &str) -> PathBuf {
        self.directory.path().join("endpoints").join(path)
    }
}

fn check(exit: Exit, output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(exit as i32), "{stdout}\n{stderr}");
    if exit == Exit::Success { stdout.into_owned() } else { stderr.into_owned() }
}

#[test]
fn an_endpoint_is_configured_listed_shown_and_deleted() {
    let site = Site::new();
    assert!(site.run(Exit::Success, &["list"]).contains("no endpoints yet"));
    let said = site
        .run(Exit::Success, &["configure", "laptop", "--service", "http://127.0.0.1:1", "--workers", "3"]);
    assert!(said.contains("config.yaml") && said.contains("no token yet"), "{said}");
    let config = fs::read_to_string(site.file("laptop/config.yaml")).unwrap();
    assert!(config.contains("max_workers_per_node: 3") && config.contains("http://127.0.0.1:1"), "{config}");
    assert_eq!(site.run(Exit::Success, &["check", "laptop", "--dump-config"]), config);

    let listed: serde_json::Value =
        serde_json::from_str(&site.run(Exit::Success, &["list", "--json"])).unwrap();
    assert_eq!(
        listed,
        serde_json::json!([{"name": "laptop", "id": null, "state": "stopped", "pid": null, "service": null}])
    );
    assert!(site.run(Exit::Success, &["list"]).contains("laptop"));
    let shown: serde_json::Value =
        serde_json::from_str(&site.run(Exit::Success, &["show", "laptop", "--json"])).unwrap();
    assert_eq!((&shown["state"], &shown["status"]), (&"stopped".into(), &serde_json::Value::Null));

    assert!(site.run(Exit::NoSuchEndpoint, &["configure", "laptop"]).contains("already"));
    assert!(site.run(Exit::Usage, &["delete", "laptop"]).contains("--yes"));
    site.run(Exit::Success, &["delete", "laptop", "--yes"]);
    assert!(!site.file("laptop").exists());
    assert!(site.run(Exit::NoSuchEndpoint, &["show", "laptop"]).contains("configure laptop"));
}

#[test]
fn a_configuration_can_be_seen_before_it_is_written() {
    let site = Site::new();
    let dumped =
        site.run(Exit::Success, &["configure", "x", "--dump-config", "--public", "--display-name", "a: b"]);
    assert!(dumped.contains("public: true") && dumped.contains("display_name: \"a: b\""), "{dumped}");
    assert!(!site.file("x").exists());
    let refused = site.run(Exit::Usage, &["configure", "x", "--service", "ftp://x"]);
    assert!(refused.contains("service must be a URL"), "{refused}");
    assert!(site.run(Exit::Usage, &["configure", "../x"]).contains("cannot name an endpoint"));
    assert!(!site.file("x").exists());
}

#[test]
fn the_token_is_kept_for_the_owner_only_and_shown_nowhere() {
    let site = Site::new();
    let mut command = site.command(&["configure", "a", "--token-file", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"t0ps3cret\n").unwrap();
    let said = check(Exit::Success, &child.wait_with_output().unwrap());
    let credentials = site.file("a/credentials");
    assert_eq!(fs::read_to_string(&credentials).unwrap(), "t0ps3cret");
    assert_eq!(fs::metadata(&credentials).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(site.file("a/run")).unwrap().permissions().mode() & 0o777, 0o700);
    let shown = site.run(Exit::Success, &["show", "a"]) + &site.run(Exit::Success, &["check", "a"]) + &said;
    assert!(!shown.contains("t0ps3cret"));

    let set = site.command(&["configure", "b"]).env("FUNCX_TOKEN", "fr0mvariable").output().unwrap();
    check(Exit::Success, &set);
    assert_eq!(fs::read_to_string(site.file("b/credentials")).unwrap(), "fr0mvariable");
    let empty = site.command(&["configure", "c", "--token-file", "/dev/null"]).output().unwrap();
    check(Exit::Credentials, &empty);
    assert!(!site.file("c").exists(), "nothing is left behind");
}

#[test]
fn check_says_what_would_run_and_what_is_wrong() {
    let site = Site::new();
    site.run(Exit::Success, &["configure", "a"]);
    let said = site.run(Exit::Success, &["check", "a"]);
    for part in
        ["is right", "funcx-worker --endpoint unix:", "--python python3", "Python 3.", "there is none yet"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    let set = |text: &str| fs::write(site.file("a/config.yaml"), text).unwrap();
    set("displayname: x\nengine: {type: ThreadPoolEngine}\n");
    let refused = site.run(Exit::Configuration, &["check", "a"]);
    assert!(refused.contains("line 1: displayname is not known; did you mean `display_name`?"), "{refused}");
    assert!(refused.contains("line 2: engine.type ThreadPoolEngine"), "{refused}");
    assert_eq!(refused, site.run(Exit::Configuration, &["start", "a"]), "start says the same");
    set("python: no-such-python\n");
    assert!(site.run(Exit::Python, &["check", "a"]).contains("no-such-python"));
    set("worker_command: [/no/such/worker]\n");
    assert!(site.run(Exit::Configuration, &["check", "a"]).contains("/no/such/worker"));
    set("amqp_port: 443\n");
    assert!(site.run(Exit::Success, &["check", "a"]).contains("amqp_port has no effect here"));
}

#[test]
fn an_endpoint_without_token_or_in_the_wrong_state_says_so() {
    let site = Site::new();
    site.run(Exit::Success, &["configure", "a"]);
    for start in [&["start", "a"] as &[_], &["start", "a", "--detach"]] {
        let refused = site.run(Exit::Credentials, start);
        assert!(refused.contains("there is no token"), "{refused}");
    }
    assert!(site.run(Exit::WrongState, &["stop", "a"]).contains("does not run"));
    // The background start above has made a log, with the same words.
    assert!(site.run(Exit::Success, &["logs", "a", "-n", "1"]).contains("there is no token"));
    // Somebody else holds the lock of the pid file: the endpoint runs.
    let pid_file = fs::File::create(site.file("a/endpoint.pid")).unwrap();
    writeln!(&pid_file, "999999").unwrap();
    pid_file.lock().unwrap();
    let refused = site.run(Exit::WrongState, &["start", "a"]);
    assert!(refused.contains("runs already as process 999999"), "{refused}");
    assert!(site.run(Exit::WrongState, &["delete", "a", "--yes"]).contains("runs"));
    drop(pid_file);
    let listed = site.run(Exit::Success, &["list"]);
    assert!(listed.contains("killed"), "{listed}");
}

#[test]
fn a_manager_that_cannot_work_says_why() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nobody = format!("unix:{}/nobody", directory.path().display());
    let run = |exit, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_funcx-worker"));
        command
            .args(["--endpoint", &nobody, "--workers", "1", "--work-dir"])
            .arg(directory.path())
            .args(arguments);
        check(exit, &command.stdin(Stdio::null()).output().expect("the program starts"))
    };
    assert!(run(Exit::Python, &["--python", "no-such-python"]).contains("no-such-python"));
    assert!(run(Exit::LostAbove, &["--patience", "1 ms"]).contains("out of reach for 1 ms"));
    assert!(run(Exit::Usage, &["--patience", "soon"]).contains("a duration looks like"));
}
