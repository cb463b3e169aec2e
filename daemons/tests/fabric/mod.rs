//! A fabric of real processes for a test: `funcx-service` and `funcx-endpoint`, started as an operator starts them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use funcx_net::client::{Client, Token};
use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long a process may take to do what it was asked. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that cannot be waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A running fabric. Dropping it kills its processes.
pub(crate) struct Fabric {
    directory: TempDir,
    address: SocketAddr,
    token: String,
    environment: Vec<(String, String)>,
    service: Child,
    endpoint: Child,
}

impl Fabric {
    /// Starts a service, an endpoint named `faulty`, and a manager with this many workers.
    pub(crate) async fn start(workers: u32) -> Self {
        Self::start_with(workers, &[]).await
    }

    /// The same, with these variables in the environment of service and endpoint.
    pub(crate) async fn start_with(workers: u32, environment: &[(&str, &str)]) -> Self {
        Self::start_engine(&format!("max_workers_per_node: {workers}"), workers, environment).await
    }

    /// The same with an engine that has these keys, and altogether so many workers.
    pub(crate) async fn start_engine(engine: &str, workers: u32, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Free now, and nobody else on this machine asks for it by number.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let token = create_token(directory.path()).await;
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(owned).collect();
        let service = start_service(directory.path(), address, &environment);
        let configured = endpoint_command(directory.path(), &token)
            .args(["configure", "faulty", "--service", &format!("http://{address}")])
            .output()
            .await
            .unwrap();
        assert!(configured.status.success(), "{}", String::from_utf8_lossy(&configured.stderr));
        let config = format!("service: http://{address}\nengine:\n  {engine}\n");
        std::fs::write(directory.path().join("home/endpoints/faulty/config.yaml"), config).unwrap();
        let endpoint = start_endpoint(directory.path(), &token, &environment);
        let fabric = Self { directory, address, token, environment, service, endpoint };
        fabric.online(workers).await;
        fabric
    }

    /// A client of the service.
    pub(crate) fn client(&self) -> Client {
        let token = Token::new(&self.token).unwrap();
        Client::builder().service(format!("http://{}", self.address)).token(token).build().unwrap()
    }

    /// Kills the service and starts it again on the same data.
    pub(crate) async fn restart_service(&mut self) {
        kill(self.service.id().unwrap());
        self.service.wait().await.unwrap();
        self.service = start_service(self.directory.path(), self.address, &self.environment);
    }

    /// Kills the endpoint and starts it again.
    pub(crate) async fn restart_endpoint(&mut self) {
        self.kill_endpoint().await;
        self.start_endpoint();
    }

    /// Kills the endpoint.
    pub(crate) async fn kill_endpoint(&mut self) {
        kill(self.endpoint.id().unwrap());
        self.endpoint.wait().await.unwrap();
    }

    /// Starts an endpoint that was killed.
    pub(crate) fn start_endpoint(&mut self) {
        self.endpoint = start_endpoint(self.directory.path(), &self.token, &self.environment);
    }

    /// Kills the endpoint for good; resolves when its manager, zygote and workers are gone too.
    pub(crate) async fn lose_endpoint(&mut self) {
        let manager = self.manager().await;
        let zygote = children(manager)[0];
        let mut family = children(zygote);
        family.extend([manager, zygote]);
        kill(self.endpoint.id().unwrap());
        self.endpoint.wait().await.unwrap();
        until("managers and workers are gone", || family.iter().all(|pid| !is_alive(*pid))).await;
    }

    /// The process of the manager, once it has a zygote with workers.
    pub(crate) async fn manager(&self) -> u32 {
        let endpoint = self.endpoint.id().unwrap();
        let with_workers = || {
            children(endpoint).into_iter().find(|manager| {
                children(*manager).first().is_some_and(|zygote| !children(*zygote).is_empty())
            })
        };
        until("there is a manager with workers", || with_workers().is_some()).await;
        with_workers().unwrap()
    }

    /// Stops everything politely, and finds that nothing is left.
    pub(crate) async fn stop(mut self) {
        let manager = self.manager().await;
        let mut family = vec![manager];
        family.extend(children(manager));
        self.stop_all().await;
        until("managers and zygotes are gone", || family.iter().all(|pid| !is_alive(*pid))).await;
    }

    /// Stops endpoint and service politely.
    pub(crate) async fn stop_all(&mut self) {
        self.stop_endpoint().await;
        self.stop_service().await;
    }

    /// Stops the endpoint politely.
    pub(crate) async fn stop_endpoint(&mut self) {
        terminate(&mut self.endpoint).await;
    }

    /// Stops the service politely.
    pub(crate) async fn stop_service(&mut self) {
        terminate(&mut self.service).await;
    }

    /// Starts service and endpoint again after both have been stopped.
    pub(crate) fn start_again(&mut self) {
        self.service = start_service(self.directory.path(), self.address, &self.environment);
        self.endpoint = start_endpoint(self.directory.path(), &self.token, &self.environment);
    }

    /// What `service`, `endpoint` or the managers (`manager`) have logged so far.
    pub(crate) fn log(&self, name: &str) -> String {
        if name != "manager" {
            return std::fs::read_to_string(self.directory.path().join(format!("{name}.log"))).unwrap();
        }
        let logs = self.directory.path().join("home/endpoints/faulty/logs");
        let files = std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    /// What the endpoint says about itself; nothing before it has looked.
    pub(crate) fn endpoint_status(&self) -> serde_json::Value {
        let path = self.directory.path().join("home/endpoints/faulty/run/status.json");
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Waits until the service knows of so many workers.
    pub(crate) async fn online(&self, workers: u32) {
        let client = self.client();
        let begun = tokio::time::Instant::now();
        loop {
            if let Ok(endpoint) = client.endpoint_named("faulty").await
                && endpoint.workers >= workers
            {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the endpoint does not come online");
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Ends a process as the kernel does when memory runs out.
pub(crate) fn kill(pid: u32) {
    signal(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
}

/// Stops a process so that it notices nothing any more.
pub(crate) fn freeze(pid: u32) {
    signal(Pid::from_raw(pid as i32), Signal::SIGSTOP).unwrap();
}

/// Child processes, oldest first.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    // A process that has just ended has none.
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    found.sort_unstable();
    found
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie is dead; only its parent has not looked yet.
    !stat.is_empty() && !stat.contains(") Z ")
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn create_token(directory: &Path) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_funcx"))
        .args([
            "token",
            "create",
            "--name",
            "alice",
            "--scope",
            "compute",
            "--scope",
            "endpoint",
            "--json",
            "--data-dir",
        ])
        .arg(directory.join("data"))
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

async fn terminate(child: &mut Child) {
    signal(Pid::from_raw(child.id().unwrap() as i32), Signal::SIGTERM).unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it stops").unwrap();
    assert!(status.success(), "{status}");
}

fn start_service(directory: &Path, address: SocketAddr, environment: &[(String, String)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_funcx-service"))
        .args(["--listen", &address.to_string(), "--data-dir"])
        .arg(directory.join("data"))
        .envs(environment.iter().cloned())
        .stderr(log(directory, "service"))
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn start_endpoint(directory: &Path, token: &str, environment: &[(String, String)]) -> Child {
    endpoint_command(directory, token)
        .args(["start", "faulty"])
        .envs(environment.iter().cloned())
        .stderr(log(directory, "endpoint"))
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn endpoint_command(directory: &Path, token: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_funcx-endpoint"));
    command.env("FUNCX_DIR", directory.join("home")).env("FUNCX_TOKEN", token);
    command
}

fn log(directory: &Path, name: &str) -> Stdio {
    let path = directory.join(format!("{name}.log"));
    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().into()
}
