//! The daemons of a run: starting them, finding the processes that belong to them, starting them again.

use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::Mutex,
};
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::history::{Event, History};
use super::network::{Network, address};
use super::place::Place;
use crate::cli::process::{Process, descendants, reap};
use crate::endpoint::{HOME_VARIABLE, TOKEN_VARIABLE};

/// Port of the service where it has a network of its own.
const PORT: u16 = 5000;

/// Between two looks whether a daemon has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Pause before a daemon that ended by itself is started again, as a service manager makes it.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// How long a daemon may take to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(60);

/// How long processes that are left over may take to notice.
const AFTERMATH: Duration = Duration::from_secs(90);

/// What may be there besides processes.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    pub(super) network: Option<Network>,
    /// Where the disks are mounted, and the disks: the service's, the endpoints'.
    pub(super) disks: Option<(Place, Vec<Disk>)>,
}

/// Hosts of the network.
pub(super) const CLIENT: usize = 0;
pub(super) const SERVICE: usize = 1;
pub(super) const FIRST_ENDPOINT: usize = 2;

impl Surroundings {
    /// Where the processes of a host are.
    pub(super) fn place(&self, host: usize) -> Place {
        let network = self.network.as_ref().and_then(|network| network.host(host).network);
        let mounts = self.disks.as_ref().and_then(|(place, _)| place.mounts.clone());
        Place { network, mounts }
    }

    fn directory(&self, disk: usize, otherwise: &Path) -> PathBuf {
        self.disks.as_ref().map_or_else(|| otherwise.to_owned(), |(_, disks)| disks[disk].path().to_owned())
    }
}

/// A daemon, which is started again whenever it has ended.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) name: String,
    place: Place,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    history: History,
}

/// All daemons of a run. Who holds the lock of a daemon decides whether it runs.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) service_url: String,
    pub(super) token: String,
    pub(super) endpoints: Vec<String>,
    /// The service, then the endpoints.
    pub(super) daemons: Vec<Mutex<Daemon>>,
    history: History,
}

impl Cluster {
    /// Makes an account and the endpoints, and starts all daemons.
    pub(super) async fn start(
        directory: &Path,
        surroundings: &Surroundings,
        endpoints: usize,
        workers: u32,
        history: &History,
    ) -> Result<Self> {
        let listen = match surroundings.network {
            Some(_) => format!("{}:{PORT}", address(SERVICE)),
            // Free now, and nobody else on this machine asks for it by number.
            None => TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string(),
        };
        let data = surroundings.directory(0, &directory.join("service")).join("data");
        let home = surroundings.directory(1, &directory.join("endpoints"));
        let logs = directory.join("logs");
        fs::create_dir_all(&logs)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let token = create_token(&surroundings.place(SERVICE), &data).await?;
        let daemon = |name: &str, host: usize, arguments: &[&str], environment: &[(&str, &str)]| Daemon {
            name: name.to_owned(),
            place: surroundings.place(host),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            log: logs.join(format!("{name}.log")),
            child: None,
            history: history.clone(),
        };
        let arguments = ["chaos", "service", "--listen", &listen, "--data-dir", &text(&data)];
        let mut daemons = vec![daemon("service", SERVICE, &arguments, &[])];
        let names: Vec<_> = (1..=endpoints).map(|number| format!("endpoint-{number}")).collect();
        let service_url = format!("http://{listen}");
        for (index, name) in names.iter().enumerate() {
            let place = surroundings.place(FIRST_ENDPOINT + index);
            let config = format!("service: {service_url}\nengine:\n  max_workers_per_node: {workers}\n");
            let path = home.join("endpoints").join(name);
            place.run(|| {
                fs::create_dir_all(&path)?;
                fs::write(path.join("config.yaml"), config)
            })??;
            let environment = [(HOME_VARIABLE, &*text(&home)), (TOKEN_VARIABLE, &token)];
            daemons.push(daemon(
                name,
                FIRST_ENDPOINT + index,
                &["chaos", "endpoint", "start", name],
                &environment,
            ));
        }
        for daemon in &mut daemons {
            daemon.start()?;
        }
        let daemons = daemons.into_iter().map(Mutex::new).collect();
        Ok(Self { service_url, token, endpoints: names, daemons, history: history.clone() })
    }

    /// Starts daemons again that have ended by themselves, until told to stop. Daemons that somebody holds are his.
    pub(super) async fn keep(&self, stop: &CancellationToken) -> Result<()> {
        let (mut ours, mut zombies) = (vec![0; self.daemons.len()], Vec::new());
        while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
            let mut all_seen = true;
            for (daemon, pid) in self.daemons.iter().zip(&mut ours) {
                let Ok(mut daemon) = daemon.try_lock() else {
                    all_seen = false;
                    continue;
                };
                daemon.restart_if_ended().await?;
                *pid = daemon.pid().unwrap_or_default();
            }
            // A daemon that somebody is just starting or stopping must not be taken for a stranger.
            if all_seen {
                zombies = reap(&zombies, &ours);
            }
        }
        Ok(())
    }

    /// Ends all daemons politely, the endpoints first, and waits until no process is left.
    pub(super) async fn stop(&self) -> Result<()> {
        for daemon in self.daemons.iter().rev() {
            daemon.lock().await.stop_politely().await?;
        }
        let begun = tokio::time::Instant::now();
        let (mut left, mut zombies) = (descendants(), Vec::new());
        while !left.is_empty() && begun.elapsed() < AFTERMATH {
            tokio::time::sleep(LOOK).await;
            zombies = reap(&zombies, &[]);
            left = descendants();
        }
        for process in left {
            self.history.record(Event::Left { pid: process.pid, command: process.command() });
        }
        Ok(())
    }
}

impl Daemon {
    pub(super) fn start(&mut self) -> Result<()> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // A proxy of the site leads away from the network that we have made.
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY")
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for us, who ends them.
            .process_group(0)
            .kill_on_drop(true);
        let runtime = Handle::current();
        let child = self.place.run(|| {
            let _entered = runtime.enter();
            command.spawn()
        })?;
        let child = child.with_context(|| format!("cannot start {}", self.name))?;
        self.history
            .record(Event::Started { process: self.name.clone(), pid: child.id().unwrap_or_default() });
        self.child = Some(child);
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Its process, if it runs.
    pub(super) fn process(&self) -> Option<Process> {
        self.pid().and_then(Process::find)
    }

    /// The managers that it has started.
    pub(super) fn managers(&self) -> Vec<Process> {
        self.process().map(Process::children).unwrap_or_default()
    }

    /// The workers of its managers, each a child of a zygote.
    pub(super) fn workers(&self) -> Vec<Process> {
        let zygotes = self.managers().into_iter().flat_map(Process::children);
        zygotes.flat_map(Process::children).collect()
    }

    /// Kills it, and waits for its end.
    pub(super) async fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.with_context(|| format!("cannot kill {}", self.name))?;
        }
        Ok(())
    }

    /// Asks it to end, and waits for that. One that does not is killed.
    pub(super) async fn stop_politely(&mut self) -> Result<()> {
        let Some(process) = self.process() else { return Ok(()) };
        process.signal(Signal::SIGTERM);
        let Some(child) = &mut self.child else { return Ok(()) };
        match tokio::time::timeout(FAREWELL, child.wait()).await {
            Ok(status) => {
                let status = status?;
                // One that has just been started does not listen for the signal yet, and dies of it.
                if !status.success() && status.signal() != Some(Signal::SIGTERM as i32) {
                    self.exited(process.pid, status);
                }
                self.child = None;
                Ok(())
            }
            Err(_) => {
                self.history.record(Event::Stuck { process: self.name.clone(), pid: process.pid });
                self.kill().await
            }
        }
    }

    async fn restart_if_ended(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let pid = child.id().unwrap_or_default();
        if let Some(status) = child.try_wait()? {
            self.exited(pid, status);
            tokio::time::sleep(RESTART_PAUSE).await;
            self.start()?;
        }
        Ok(())
    }

    fn exited(&self, pid: u32, status: ExitStatus) {
        let process = self.name.clone();
        self.history.record(Event::Exited { process, pid, status: status.to_string() });
    }
}

async fn create_token(place: &Place, data: &Path) -> Result<String> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command
        .args(["token", "create", "--name", "chaos", "--scope", "compute", "--scope", "endpoint", "--json"]);
    command.arg("--data-dir").arg(data).stdout(std::process::Stdio::piped());
    let runtime = Handle::current();
    let child = place.run(|| {
        let _entered = runtime.enter();
        command.spawn()
    })?;
    let output = child?.wait_with_output().await?;
    ensure!(output.status.success(), "cannot make a token");
    #[derive(serde::Deserialize)]
    struct Made {
        token: String,
    }
    Ok(serde_json::from_slice::<Made>(&output.stdout).context("cannot read the token")?.token)
}
