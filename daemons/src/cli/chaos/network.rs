//! Hosts on a network of our own, and what can go wrong between them.

use std::{io, process::Command};

use super::place::{Place, new_network, path_of};

/// Between a host and the bridge.
const WIRE: &str = "eth0";

/// Hosts 0, 1, … on one bridge, each in a network namespace.
#[derive(Debug)]
pub(super) struct Network {
    hosts: Vec<Place>,
    /// Open as long as the hosts need it.
    _bridge: Place,
}

/// A change that is undone by [`Rule::remove`].
#[derive(Debug, Clone)]
pub(super) struct Rule {
    place: Place,
    add: Vec<String>,
    remove: Vec<String>,
}

/// What happens to packets from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// None arrives.
    Cut,
    /// So many in a hundred do not arrive.
    Loss(u64),
    /// TCP connections are reset.
    Reset,
}

impl Network {
    /// Makes the hosts and joins them.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let bridge = Place { network: Some(new_network()?), mounts: None };
        run(&bridge, "ip", "link add bridge0 type bridge")?;
        run(&bridge, "ip", "link set bridge0 up")?;
        let mut hosts = Vec::new();
        for host in 0..count {
            let network = new_network()?;
            let path = path_of(&network);
            let place = Place { network: Some(network), mounts: None };
            run(&bridge, "ip", &format!("link add port{host} type veth peer name {WIRE} netns {path}"))?;
            run(&bridge, "ip", &format!("link set port{host} master bridge0 up"))?;
            run(&place, "ip", &format!("addr add {}/24 dev {WIRE}", address(host)))?;
            run(&place, "ip", "link set lo up")?;
            run(&place, "ip", &format!("link set {WIRE} up"))?;
            hosts.push(place);
        }
        // Whether packets can be dropped is found out now, not in the middle of a run.
        let network = Self { hosts, _bridge: bridge };
        for trouble in [Trouble::Cut, Trouble::Loss(10), Trouble::Reset] {
            let rule = network.trouble(0, 1, trouble);
            rule.apply()?;
            rule.remove()?;
        }
        Ok(network)
    }

    /// Where processes of a host are started.
    pub(super) fn host(&self, host: usize) -> Place {
        self.hosts[host].clone()
    }

    /// Packets from one host to another have trouble, where they arrive.
    pub(super) fn trouble(&self, from: usize, to: usize, trouble: Trouble) -> Rule {
        let what = match trouble {
            Trouble::Cut => "-j DROP".to_owned(),
            Trouble::Loss(percent) => {
                format!("-m statistic --mode random --probability 0.{percent:02} -j DROP")
            }
            Trouble::Reset => "-p tcp -j REJECT --reject-with tcp-reset".to_owned(),
        };
        let rule = |action: &str| words(&format!("iptables -w {action} INPUT -s {} {what}", address(from)));
        Rule { place: self.host(to), add: rule("-A"), remove: rule("-D") }
    }

    /// What a host sends goes out slowly.
    pub(super) fn slow(&self, host: usize, kilobits: u64) -> Rule {
        let add =
            format!("tc qdisc replace dev {WIRE} root tbf rate {kilobits}kbit burst 32kbit latency 200ms");
        Rule {
            place: self.host(host),
            add: words(&add),
            remove: words(&format!("tc qdisc del dev {WIRE} root")),
        }
    }
}

impl Rule {
    pub(super) fn apply(&self) -> io::Result<()> {
        run_words(&self.place, &self.add)
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        run_words(&self.place, &self.remove)
    }
}

/// The address of a host, in a network that is set aside for tests of devices (RFC 2544).
pub(super) fn address(host: usize) -> String {
    format!("198.18.0.{}", host + 1)
}

fn run(place: &Place, program: &str, arguments: &str) -> io::Result<()> {
    run_words(place, &words(&format!("{program} {arguments}")))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn run_words(place: &Place, words: &[String]) -> io::Result<()> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let output = place.run(|| Command::new(program).args(arguments).output())?;
    let failed = |why: String| io::Error::other(format!("`{}`: {why}", words.join(" ")));
    let output = output.map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
