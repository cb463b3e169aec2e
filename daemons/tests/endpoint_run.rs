//! Endpoints as processes in front of a real service: started, used, stopped, refused, and unable to start workers.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use funcx_core::contract::Scope;
use funcx_core::model::{EndpointId, OutcomeKind};
use funcx_daemons::exit::Exit;
use funcx_daemons::service::{RunningService, ServiceOptions, ServiceTerms};
use funcx_net::client::{Arguments, Call, Client, FunctionRegistration, Token};
use serde_json::Value;

/// How long a process may take to do what it was asked. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that cannot be waited for.
const LOOK: Duration = Duration::from_millis(50);

/// A service in this process, and a directory with endpoints for it.
struct Site {
    directory: tempfile::TempDir,
    service: RunningService,
    token: String,
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listen = ([127, 0, 0, 1], 0).into();
        let options = ServiceOptions {
            listen,
            data_dir: directory.path().join("service"),
            terms: ServiceTerms::default(),
        };
        let service = RunningService::start(&options).await.expect("the service starts");
        let authority = service.authority();
        let account = authority.create_account("alice", &[]).expect("an account");
        let scopes = [Scope::Compute, Scope::Endpoint];
        let token = authority.create_token(account, &scopes, None, "test").expect("a token");
        Self { directory, service, token }
    }

    /// Runs `funcx-endpoint`, which is expected to end with this code; its standard output, or its standard error if it
    /// fails.
    async fn run(&self, exit: Exit, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_funcx-endpoint"));
        command.args(arguments).env("FUNCX_DIR", self.directory.path()).env("FUNCX_TOKEN", &self.token);
        // The service answers from this process, so that it must not be blocked.
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await;
        let output = output.expect("no panic").expect("the program starts");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(exit as i32), "{arguments:?}\n{stdout}\n{stderr}");
        if exit == Exit::Success { stdout.into_owned() } else { stderr.into_owned() }
    }

    async fn show(&self, name: &str) -> Value {
        serde_json::from_str(&self.run(Exit::Success, &["show", name, "--json"]).await).expect("JSON")
    }

    /// What `show` says once it is as wanted.
    async fn show_when(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let shown = self.show(name).await;
            if wanted(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {shown}");
            tokio::time::sleep(LOOK).await;
        }
    }

    fn client(&self) -> Client {
        let token = Token::new(&self.token).expect("a token");
        Client::builder().service(self.service.url()).token(token).build().expect("a client")
    }

    fn file(&self, path: &str) -> PathBuf {
        self.directory.path().join("endpoints").join(path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_starts_in_the_background_runs_tasks_and_stops() {
    let site = Site::new().await;
    site.run(Exit::Success, &["configure", "lab", "--service", &site.service.url(), "--workers", "2"]).await;
    let said = site.run(Exit::Success, &["start", "lab", "--detach"]).await;
    assert!(said.contains("runs as process"), "{said}");
    let refused = site.run(Exit::WrongState, &["start", "lab"]).await;
    assert!(refused.contains("runs already"), "{refused}");

    let shown = site.show_when("lab", |shown| shown["status"]["workers"] == 2).await;
    assert_eq!((&shown["state"], &shown["status"]["managers"]), (&"running".into(), &1.into()));
    let id: EndpointId = shown["id"].as_str().expect("an id").parse().expect("an id");

    let client = site.client();
    let source = "def f(x):\n    import os\n    return [x + 1, os.environ.get('FUNCX_TOKEN', ''), os.environ.get('FUNCX_BLOCK_SECRET', '')]\n";
    let function = client.register(&FunctionRegistration::python("f", source)).await.expect("registered");
    let arguments =
        Arguments::python(&[41], &std::collections::BTreeMap::<String, ()>::new()).expect("arguments");
    let call = Call::new(id, function.function_id, arguments);
    let task = client.submit(call).await.expect("submitted").await.expect("an outcome");
    let value: Value = task.value().expect("a value");
    assert_eq!(value, serde_json::json!([42, "", ""]), "functions see no secrets");

    site.run(Exit::Success, &["restart", "lab", "--detach"]).await;
    let again = site.show("lab").await;
    assert_eq!(again["id"], shown["id"], "it is the same endpoint to the service");
    assert_ne!(again["pid"], shown["pid"]);
    assert!(site.run(Exit::Success, &["logs", "lab"]).await.contains("connected to the service"));

    site.run(Exit::Success, &["stop", "lab"]).await;
    let stopped = site.show("lab").await;
    assert_eq!((&stopped["state"], &stopped["status"]), (&"stopped".into(), &Value::Null));
    site.run(Exit::WrongState, &["stop", "lab"]).await;
    site.run(Exit::Success, &["delete", "lab", "--yes"]).await;
    assert!(!site.file("lab").exists());
    assert!(client.endpoint(id).await.is_err(), "the service has forgotten it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_endpoint_that_runs_harms_nothing() {
    let site = Site::new().await;
    site.run(Exit::Success, &["configure", "lab", "--service", &site.service.url()]).await;
    site.run(Exit::Success, &["start", "lab", "--detach"]).await;
    let shown = site.show_when("lab", |shown| shown["status"]["managers"] == 1).await;
    let id: EndpointId = shown["id"].as_str().expect("an id").parse().expect("an id");
    let client = site.client();
    let source = "def f(begun, go):\n    import os, time\n    open(begun, 'w').close()\n    \
                  while not os.path.exists(go):\n        time.sleep(0.01)\n";
    let function = client.register(&FunctionRegistration::python("f", source)).await.expect("registered");
    let (begun, go) = (site.file("begun"), site.file("go"));
    let arguments = Arguments::python(&(&begun, &go), &std::collections::BTreeMap::<String, ()>::new());
    let call = Call::new(id, function.function_id, arguments.expect("arguments")).with_max_attempts(1);
    let task = client.submit(call).await.expect("submitted");
    let waits = Instant::now();
    while !begun.exists() {
        assert!(waits.elapsed() < PATIENCE, "the task does not begin");
        tokio::time::sleep(LOOK).await;
    }

    let copied = Command::new("cp").arg("-r").args([site.file("lab"), site.file("copy")]).status();
    assert!(copied.expect("cp runs").success());
    for start in [&["start", "copy"] as &[_], &["start", "copy", "--detach"]] {
        let refused = site.run(Exit::Refused, start).await;
        assert!(refused.contains("running as `lab`") && refused.contains("endpoint.json"), "{refused}");
    }
    assert_eq!(site.show("copy").await["state"], "stopped");
    fs::write(go, "").expect("written");
    let task = task.await.expect("an outcome");
    assert_eq!((task.outcome, task.attempt), (Some(OutcomeKind::Returned), Some(1)), "{:?}", task.failure);
    site.run(Exit::Success, &["stop", "lab"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_cannot_succeed_leaves_the_endpoint_running() {
    let mut site = Site::new().await;
    let url = site.service.url();
    site.run(Exit::Success, &["configure", "lab", "--service", &url]).await;
    site.run(Exit::Success, &["start", "lab", "--detach"]).await;
    let pid = site.show("lab").await["pid"].clone();
    let sound = fs::read_to_string(site.file("lab/config.yaml")).expect("a configuration");

    let no_such_python = format!("service: {url}\npython: no-such-python\n");
    for (config, exit) in [("service: [", Exit::Configuration), (&no_such_python, Exit::Python)] {
        fs::write(site.file("lab/config.yaml"), config).expect("written");
        for restart in [&["restart", "lab"] as &[_], &["restart", "lab", "--detach"]] {
            site.run(exit, restart).await;
        }
    }
    fs::write(site.file("lab/config.yaml"), sound).expect("written");
    let empty = site.file("empty-token");
    fs::write(&empty, "").expect("written");
    let empty = empty.to_str().expect("UTF-8");
    site.run(Exit::Credentials, &["restart", "lab", "--detach", "--token-file", empty]).await;
    let shown = site.show("lab").await;
    assert_eq!((&shown["state"], &shown["pid"]), (&"running".into(), &pid), "it was not touched");

    let token = site.file("token");
    fs::write(&token, std::mem::take(&mut site.token)).expect("written");
    let token = token.to_str().expect("UTF-8");
    site.run(Exit::Success, &["restart", "lab", "--detach", "--token-file", token]).await;
    assert_ne!(site.show("lab").await["pid"], pid);
    site.run(Exit::Success, &["stop", "lab"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_service_does_not_take_is_named_as_the_reason() {
    let site = Site::new().await;
    site.run(Exit::Success, &["configure", "lab", "--service", &site.service.url()]).await;
    let wrong = Site { token: "wrong".to_owned(), ..site };
    for start in [&["start", "lab"] as &[_], &["start", "lab", "--detach"]] {
        let refused = wrong.run(Exit::Credentials, start).await;
        assert!(refused.contains("does not take the token") && !refused.contains("wrong\""), "{refused}");
    }
    assert_eq!(wrong.show("lab").await["state"], "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_do_not_start_leave_the_endpoint_up_with_the_reason() {
    let site = Site::new().await;
    site.run(Exit::Success, &["configure", "lab", "--service", &site.service.url()]).await;
    let config = format!("service: {}\nworker_command: [/bin/false]\n", site.service.url());
    fs::write(site.file("lab/config.yaml"), config).expect("written");
    site.run(Exit::Success, &["start", "lab", "--detach"]).await;
    let shown = site.show_when("lab", |shown| !shown["status"]["problem"].is_null()).await;
    let problem = shown["status"]["problem"].as_str().expect("a text");
    assert!(problem.contains("exit code 1"), "{problem}");
    assert_eq!((&shown["state"], &shown["status"]["blocks"]), (&"running".into(), &0.into()));
    assert!(site.run(Exit::Success, &["logs", "lab"]).await.contains("exit code 1"));
    site.run(Exit::Success, &["stop", "lab"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_python_is_named_before_anything_starts() {
    let site = Site::new().await;
    site.run(Exit::Success, &["configure", "lab", "--service", &site.service.url()]).await;
    let config = format!("service: {}\npython: no-such-python\n", site.service.url());
    fs::write(site.file("lab/config.yaml"), config).expect("written");
    for start in [&["start", "lab"] as &[_], &["start", "lab", "--detach"]] {
        let refused = site.run(Exit::Python, start).await;
        assert!(refused.contains("no-such-python"), "{refused}");
    }
    assert_eq!(site.show("lab").await["id"], Value::Null, "it was not registered");
}
