//! The nemesis: does to the daemons what fate may do to them, at times and in an order that a seed decides.

use std::{io, sync::Arc, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::{sync::Mutex, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::cluster::{CLIENT, Cluster, FIRST_ENDPOINT, SERVICE, Surroundings};
use super::history::{Event, History};
use super::network::{Rule, Trouble};
use super::random::Random;
use crate::cli::process::Process;

/// Faults at the same time.
const AT_ONCE: usize = 3;

/// Longer than any lease lasts and any heartbeat is waited for.
const BEYOND_LEASES: (u64, u64) = (32_000, 45_000);

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum FaultKind {
    /// SIGKILL, to a daemon, a manager or a worker
    Kill,
    /// SIGSTOP and later SIGCONT
    Stop,
    /// SIGTERM
    Term,
    /// Packets between two hosts vanish, in one direction or both
    Partition,
    /// Connections between two hosts are reset
    Reset,
    /// Some packets between two hosts vanish
    Loss,
    /// A host sends slowly
    Slow,
    /// The disk of the service or of the endpoints is full
    Disk,
}

impl FaultKind {
    /// Whether it takes a network of our own.
    pub(super) const fn needs_network(self) -> bool {
        matches!(self, Self::Partition | Self::Reset | Self::Loss | Self::Slow)
    }

    /// The word for it on the command line.
    pub(super) fn word(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Which processes get signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The service
    Service,
    /// An endpoint
    Endpoint,
    /// A manager
    Manager,
    /// A worker process
    Worker,
}

/// What is hit by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// A daemon, by its place in the cluster.
    Daemon(usize),
    Manager(usize),
    Worker(usize),
}

/// A fault that was drawn.
#[derive(Debug)]
struct Fault {
    number: u64,
    kind: FaultKind,
    /// How long it lasts; for a daemon that was killed, how long it is away.
    lasts: Duration,
    what: What,
}

#[derive(Debug)]
enum What {
    Signal { victim: Victim, choice: u64 },
    Rules { between: String, rules: Vec<Rule>, detail: String },
    Disk(usize),
}

/// Brings faults about.
#[derive(Debug)]
pub(super) struct Nemesis {
    pub(super) cluster: Arc<Cluster>,
    pub(super) surroundings: Arc<Surroundings>,
    pub(super) history: History,
    pub(super) kinds: Vec<FaultKind>,
    pub(super) victims: Vec<Role>,
    /// Held by whoever fills the disk of this number.
    pub(super) filling: [Mutex<()>; 2],
    pub(super) pause: Duration,
    /// Whether some faults last longer than leases do.
    pub(super) long: bool,
}

impl Nemesis {
    /// Brings faults about until `stop`; when this resolves, all of them are over.
    pub(super) async fn run(self: Arc<Self>, seed: u64, stop: CancellationToken) -> Result<()> {
        let mut random = Random::new(seed);
        let mut faults = JoinSet::new();
        let mut number = 0;
        loop {
            let longest = 2 * self.pause.as_millis() as u64;
            tokio::select! {
                () = tokio::time::sleep(random.millis(0, longest)) => {}
                () = stop.cancelled() => break,
            }
            while let Some(done) = faults.try_join_next() {
                done??;
            }
            if self.kinds.is_empty() {
                continue;
            }
            number += 1;
            // Drawn in any case, so that what is drawn next does not depend on how fast this machine is.
            let fault = self.draw(&mut random, number);
            if faults.len() < AT_ONCE {
                faults.spawn(Arc::clone(&self).bring_about(fault, stop.clone()));
            }
        }
        while let Some(done) = faults.join_next().await {
            done??;
        }
        Ok(())
    }

    fn draw(&self, random: &mut Random, number: u64) -> Fault {
        let kind = *random.pick(&self.kinds);
        let long = self.long && random.percent(10);
        let (from, to) = if long { BEYOND_LEASES } else { (100, 8000) };
        let lasts = random.millis(from, to);
        let what = match kind {
            FaultKind::Kill | FaultKind::Stop | FaultKind::Term => {
                let victim = self.victim(random);
                What::Signal { victim, choice: random.below(u64::MAX) }
            }
            FaultKind::Disk => What::Disk(random.below(2) as usize),
            FaultKind::Partition | FaultKind::Reset | FaultKind::Loss | FaultKind::Slow => {
                self.network_fault(random, kind)
            }
        };
        // A quarter of those that are killed are back at once.
        let lasts = if kind == FaultKind::Kill && random.percent(25) { Duration::ZERO } else { lasts };
        Fault { number, kind, lasts, what }
    }

    fn victim(&self, random: &mut Random) -> Victim {
        let endpoint = 1 + random.below(self.cluster.endpoints.len() as u64) as usize;
        match random.pick(&self.victims) {
            Role::Service => Victim::Daemon(0),
            Role::Endpoint => Victim::Daemon(endpoint),
            Role::Manager => Victim::Manager(endpoint),
            Role::Worker => Victim::Worker(endpoint),
        }
    }

    fn network_fault(&self, random: &mut Random, kind: FaultKind) -> What {
        let other = match random.below(self.cluster.endpoints.len() as u64 + 1) as usize {
            0 => CLIENT,
            endpoint => FIRST_ENDPOINT + endpoint - 1,
        };
        let (mut from, mut to) = (SERVICE, other);
        if random.percent(50) {
            (from, to) = (to, from);
        }
        let between = format!("{} → {}", self.host_name(from), self.host_name(to));
        let Some(network) = &self.surroundings.network else {
            return What::Rules { between, rules: Vec::new(), detail: String::new() };
        };
        if kind == FaultKind::Slow {
            let kilobits = 64 << random.below(5);
            let rules = vec![network.slow(from, kilobits)];
            return What::Rules {
                between: self.host_name(from),
                rules,
                detail: format!("{kilobits} kbit/s"),
            };
        }
        let trouble = match kind {
            FaultKind::Loss => Trouble::Loss(5 + random.below(40)),
            FaultKind::Reset => Trouble::Reset,
            _ => Trouble::Cut,
        };
        let mut rules = vec![network.trouble(from, to, trouble)];
        let both = random.percent(60);
        if both {
            rules.push(network.trouble(to, from, trouble));
        }
        let ways = if both { "both ways" } else { "one way" };
        What::Rules { between, rules, detail: format!("{trouble:?}, {ways}") }
    }

    fn host_name(&self, host: usize) -> String {
        match host {
            CLIENT => "client".to_owned(),
            SERVICE => "service".to_owned(),
            endpoint => self.cluster.endpoints[endpoint - FIRST_ENDPOINT].clone(),
        }
    }

    /// Brings a fault about, and ends it after its time or when all of them end.
    async fn bring_about(self: Arc<Self>, fault: Fault, stop: CancellationToken) -> Result<()> {
        let Fault { number, kind, lasts, what } = fault;
        match what {
            What::Signal { victim: Victim::Daemon(index), .. } => {
                self.hit_daemon(number, kind, index, lasts, &stop).await
            }
            What::Signal { victim: Victim::Manager(index), choice } => {
                let Ok(daemon) = self.cluster.daemons[index].try_lock() else { return Ok(()) };
                let victims = daemon.managers();
                drop(daemon);
                self.hit_process(number, kind, "manager", &victims, choice, lasts, &stop).await;
                Ok(())
            }
            What::Signal { victim: Victim::Worker(index), choice } => {
                let Ok(daemon) = self.cluster.daemons[index].try_lock() else { return Ok(()) };
                let victims = daemon.workers();
                drop(daemon);
                self.hit_process(number, kind, "worker", &victims, choice, lasts, &stop).await;
                Ok(())
            }
            What::Rules { between, rules, detail } => {
                let detail = format!("{detail}, {} ms", lasts.as_millis());
                self.fault(number, kind, &between, detail);
                let applied = blocking(|| rules.iter().try_for_each(Rule::apply));
                self.last(number, applied, lasts, &stop).await;
                // Those that were not applied cannot be removed, and those that cannot be removed were not there.
                blocking(|| rules.iter().for_each(|rule| drop(rule.remove())));
                self.history.record(Event::Healed { number });
                Ok(())
            }
            What::Disk(index) => {
                let Some((place, disks)) = &self.surroundings.disks else { return Ok(()) };
                let Ok(_alone) = self.filling[index].try_lock() else { return Ok(()) };
                let target = if index == 0 { "service" } else { "endpoints" };
                self.fault(number, kind, target, format!("{} ms", lasts.as_millis()));
                let filled = blocking(|| disks[index].fill(place));
                self.last(number, filled, lasts, &stop).await;
                blocking(|| disks[index].free(place))?;
                self.history.record(Event::Healed { number });
                Ok(())
            }
        }
    }

    async fn hit_daemon(
        &self,
        number: u64,
        kind: FaultKind,
        index: usize,
        lasts: Duration,
        stop: &CancellationToken,
    ) -> Result<()> {
        // Nobody else touches it until this is over. One that somebody else has hit is left alone: it needs some time
        // between two faults in which it can work.
        let Ok(mut daemon) = self.cluster.daemons[index].try_lock() else { return Ok(()) };
        self.fault(number, kind, &daemon.name, format!("{} ms", lasts.as_millis()));
        match kind {
            FaultKind::Stop => {
                let process = daemon.process();
                process.map(|process| process.signal(Signal::SIGSTOP));
                self.pause_for(lasts, stop).await;
                process.map(|process| process.signal(Signal::SIGCONT));
            }
            FaultKind::Term => {
                daemon.stop_politely().await?;
                daemon.start()?;
            }
            _ => {
                daemon.kill().await?;
                self.pause_for(lasts, stop).await;
                daemon.start()?;
            }
        }
        self.history.record(Event::Healed { number });
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "what, to whom and how long are each a word")]
    async fn hit_process(
        &self,
        number: u64,
        kind: FaultKind,
        role: &str,
        victims: &[Process],
        choice: u64,
        lasts: Duration,
        stop: &CancellationToken,
    ) {
        // There may be none just now.
        if victims.is_empty() {
            return;
        }
        let victim = victims[(choice % victims.len() as u64) as usize];
        self.fault(number, kind, role, format!("process {}", victim.pid));
        match kind {
            FaultKind::Stop => {
                victim.signal(Signal::SIGSTOP);
                self.pause_for(lasts, stop).await;
                victim.signal(Signal::SIGCONT);
            }
            FaultKind::Term => drop(victim.signal(Signal::SIGTERM)),
            _ => drop(victim.signal(Signal::SIGKILL)),
        }
        self.history.record(Event::Healed { number });
    }

    fn fault(&self, number: u64, kind: FaultKind, target: &str, detail: String) {
        self.history.record(Event::Fault { number, kind: kind.word(), target: target.to_owned(), detail });
    }

    async fn last(&self, number: u64, begun: io::Result<()>, lasts: Duration, stop: &CancellationToken) {
        match begun {
            Ok(()) => self.pause_for(lasts, stop).await,
            Err(error) => self.history.record(Event::NoFault { number, error: error.to_string() }),
        }
    }

    async fn pause_for(&self, lasts: Duration, stop: &CancellationToken) {
        // Either way the fault is over.
        let _ = tokio::time::timeout(lasts, stop.cancelled()).await;
    }
}

/// Does what takes some milliseconds in other processes or in the kernel.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}
