//! One run: daemons, load, faults, and the end of all three.

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::cluster::{CLIENT, Cluster, FIRST_ENDPOINT, Surroundings};
use super::disk::Disk;
use super::history::{Event, History, executions_path};
use super::load::{Load, LoadOptions, Phases};
use super::nemesis::{FaultKind, Nemesis};
use super::network::Network;
use super::{RunOptions, place::Place};
use crate::cli::output::print_aside;
use crate::cli::process::{KillDescendants, adopt_orphans};
use crate::signal;

/// How long workers may take to be there.
const START: Duration = Duration::from_secs(120);

/// Mixed into the seed of the faults, so that they are drawn apart from the load.
const FAULTS: u64 = 0x6661_756c_7473;

/// Does a run in a directory. What was started has ended when this resolves, however it does.
pub(super) async fn run(options: &RunOptions, seed: u64, directory: &Path) -> Result<()> {
    // What daemons leave behind when they are killed comes to us, so that we can end it.
    adopt_orphans()?;
    let _cleanup = KillDescendants;
    let mut signals = signal::Stop::new()?;
    tokio::select! {
        done = undisturbed(options, seed, directory) => done,
        () = signals.wait() => bail!("interrupted; `funcx chaos audit {}` says what was seen", directory.display()),
    }
}

async fn undisturbed(options: &RunOptions, seed: u64, directory: &Path) -> Result<()> {
    let history = History::create(directory)?;
    let (surroundings, kinds) = surroundings(options, directory)?;
    let words: Vec<_> = kinds.iter().map(|kind| kind.word()).collect();
    let seconds = options.duration().as_secs();
    history.record(Event::Began { seed, seconds, faults: words.join(",") });
    let place = surroundings.place(CLIENT);
    let cluster = Cluster::start(directory, &surroundings, options.endpoints, options.workers, &history);
    let cluster = Arc::new(cluster.await?);
    let phases = Phases::default();
    let (ready, online) = oneshot::channel();
    let client = Client {
        cluster: Arc::clone(&cluster),
        load: LoadOptions { seed, rate: options.rate, time_limits: options.time_limits },
        directory: directory.to_owned(),
        history: history.clone(),
        phases: phases.clone(),
        ready,
    };
    let mut client = client.start(place)?;
    let stop_keeping = CancellationToken::new();
    let keeping = async {
        let kept = cluster.keep(&stop_keeping).await;
        match kept {
            Ok(()) => std::future::pending().await,
            Err(error) => Err::<(), anyhow::Error>(error),
        }
    };
    // The network and the disks are there until everything has ended.
    let surroundings = Arc::new(surroundings);
    let faults = Faults {
        cluster: Arc::clone(&cluster),
        surroundings: Arc::clone(&surroundings),
        kinds,
        seed,
        phases,
        online,
    };
    let going = async {
        tokio::select! {
            done = faults.run(options, &history) => done?,
            // It ends before the rest only if it cannot go on.
            done = &mut client => return done.context("the client ended")?,
        }
        client.await.context("the client ended")?
    };
    tokio::select! {
        done = going => done?,
        failed = keeping => failed?,
    }
    stop_keeping.cancel();
    cluster.stop().await?;
    history.record(Event::Ended);
    history.check()
}

/// The part of a run in which faults happen, and what follows.
struct Faults {
    cluster: Arc<Cluster>,
    surroundings: Arc<Surroundings>,
    kinds: Vec<FaultKind>,
    seed: u64,
    phases: Phases,
    online: oneshot::Receiver<()>,
}

impl Faults {
    async fn run(self, options: &RunOptions, history: &History) -> Result<()> {
        self.online.await.map_err(|_| anyhow!("the client does not come up"))?;
        let nemesis = Arc::new(Nemesis {
            cluster: self.cluster,
            surroundings: self.surroundings,
            history: history.clone(),
            kinds: self.kinds,
            victims: options.victims.clone(),
            filling: Default::default(),
            pause: Duration::from_millis(options.fault_every),
            long: options.duration() >= Duration::from_secs(180),
        });
        let stop = CancellationToken::new();
        let time = async {
            tokio::time::sleep(options.duration()).await;
            stop.cancel();
            Ok(())
        };
        tokio::try_join!(nemesis.run(self.seed ^ FAULTS, stop.clone()), time)?;
        self.phases.submitted.cancel();
        history.record(Event::AllHealed);
        let patience_over = self.phases.patience_over;
        let patience = Duration::from_secs(options.settle);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            patience_over.cancel();
        });
        Ok(())
    }
}

/// The client, which lives in a network of its own and so needs a thread of its own.
struct Client {
    cluster: Arc<Cluster>,
    load: LoadOptions,
    directory: std::path::PathBuf,
    history: History,
    phases: Phases,
    ready: oneshot::Sender<()>,
}

impl Client {
    fn start(self, place: Place) -> Result<oneshot::Receiver<Result<()>>> {
        let (done, wait) = oneshot::channel();
        thread::Builder::new().name("client".to_owned()).spawn(move || {
            let result = place.enter().map_err(anyhow::Error::from).and_then(|()| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.run())
            });
            // Nobody waits any more if the run was interrupted.
            let _ = done.send(result);
        })?;
        Ok(wait)
    }

    async fn run(self) -> Result<()> {
        let Self { cluster, load: options, directory, history, phases, ready } = self;
        let executions = executions_path(&directory);
        let prepared = tokio::time::timeout(START, async {
            loop {
                let load = Load::prepare(
                    &cluster.service_url,
                    &cluster.token,
                    &cluster.endpoints,
                    &executions,
                    history.clone(),
                );
                match load.await {
                    Ok(load) => return load,
                    // The endpoints are just registering.
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        });
        let load = prepared.await.context("the service does not come up")?;
        load.online(START).await?;
        if ready.send(()).is_err() {
            return Ok(());
        }
        load.run(options, phases).await
    }
}

/// Makes what faults need, and leaves out the faults that cannot be had.
fn surroundings(options: &RunOptions, directory: &Path) -> Result<(Surroundings, Vec<FaultKind>)> {
    let mut kinds = options.faults.clone();
    kinds.sort_unstable();
    kinds.dedup();
    let mut made = Surroundings::default();
    if kinds.iter().any(|kind| kind.needs_network()) {
        let proxy = ["http_proxy", "HTTP_PROXY"].into_iter().any(|name| std::env::var_os(name).is_some());
        let network = match proxy {
            true => Err(std::io::Error::other("http_proxy is set, which leads elsewhere")),
            false => Network::new(FIRST_ENDPOINT + options.endpoints),
        };
        match network {
            Ok(network) => made.network = Some(network),
            Err(error) => {
                kinds.retain(|kind| !kind.needs_network());
                print_aside(&format!(
                    "network faults are left out, they need root, `ip`, `tc` and `iptables`: {error}"
                ))?;
            }
        }
    }
    if kinds.contains(&FaultKind::Disk) {
        let paths = ["service-disk", "endpoints-disk"].map(|name| directory.join(name));
        match Disk::mount(&paths, options.disk_mib << 20) {
            Ok(disks) => made.disks = Some(disks),
            Err(error) => {
                kinds.retain(|kind| *kind != FaultKind::Disk);
                print_aside(&format!("full disks are left out, they need root: {error}"))?;
            }
        }
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok((made, kinds))
}
