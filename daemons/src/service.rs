//! The service daemon: a store, an authority, and the HTTP API over them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use funcx_core::model::IdentityId;
use funcx_net::{
    auth::LocalAuthority,
    http,
    service::{Left, Service, ServiceConfig},
    store::EmbeddedStore,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::config::{parse_duration, parse_size};
use crate::exit::{Exit, Failed};
use crate::signal;

/// Port of the service unless another is asked for: the Globus Compute SDK's `local` environment is fixed to it.
pub const DEFAULT_PORT: u16 = 5000;

/// Command line of `funcx-service`.
#[derive(Debug, Clone, Args)]
pub struct ServiceOptions {
    /// Address to serve on; port 0 takes a free one
    #[arg(long, env = "FUNCX_LISTEN", default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]
    pub listen: SocketAddr,
    /// Directory with everything that outlives the service: functions, tasks, results, accounts
    #[arg(long, env = "FUNCX_DATA_DIR")]
    pub data_dir: PathBuf,
    /// How much, for whom and for how long.
    #[command(flatten)]
    pub terms: ServiceTerms,
}

/// What an operator decides about the tasks of a service.
#[derive(Debug, Clone, Default, Args)]
pub struct ServiceTerms {
    /// How long results are kept after their task has ended, read or not, such as `7 d` or `forever`; 14 days if absent
    #[arg(long, value_parser = retention, value_name = "TIME")]
    pub result_retention: Option<Retention>,
    /// Share of an owner where several wait for one endpoint, by the name of the account or its identity id; 1 for those not
    /// named. Can be repeated
    #[arg(long = "weight", value_parser = weight, value_name = "OWNER=NUMBER")]
    pub weights: Vec<(String, u32)>,
    /// Unfinished tasks of one endpoint that are accepted; more are answered with 429
    #[arg(long, value_name = "NUMBER")]
    pub endpoint_tasks: Option<u64>,
    /// Memory for the values of memoized calls, such as `256 MiB`; more of them are in the store. 64 MiB if absent
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub memo_size: Option<u64>,
}

/// How long results are kept; for ever if `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention(pub Option<Duration>);

fn retention(text: &str) -> Result<Retention, String> {
    match text {
        "forever" => Ok(Retention(None)),
        _ => match parse_duration(text).filter(|time| !time.is_zero()) {
            Some(time) => Ok(Retention(Some(time))),
            None => Err("a time such as `7 d`, or `forever`, is wanted".to_owned()),
        },
    }
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "a size such as `256 MiB`, or `0`, is wanted".to_owned())
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let wanted = || "the name of an account, `=` and a number from 1 are wanted".to_owned();
    let (owner, weight) = text.rsplit_once('=').filter(|(owner, _)| !owner.is_empty()).ok_or_else(wanted)?;
    let weight = weight.parse().ok().filter(|weight| *weight > 0).ok_or_else(wanted)?;
    Ok((owner.to_owned(), weight))
}

impl ServiceTerms {
    /// The service's own words for these.
    ///
    /// # Errors
    /// [`Exit::Configuration`] if an owner is unknown.
    fn apply(&self, mut config: ServiceConfig, authority: &LocalAuthority) -> Result<ServiceConfig> {
        if let Some(Retention(time)) = self.result_retention {
            config.result_retention = time;
        }
        for (owner, weight) in &self.weights {
            let identity = authority.account(owner)?.or_else(|| owner.parse::<IdentityId>().ok());
            let Some(identity) = identity else {
                let message =
                    format!("--weight: there is no account `{owner}`; `funcx token create --name` makes one");
                bail!(Failed::new(Exit::Configuration, message));
            };
            config.weights.insert(identity, *weight);
        }
        config.endpoint_tasks = self.endpoint_tasks.unwrap_or(config.endpoint_tasks);
        config.memo_bytes =
            self.memo_size.map_or(config.memo_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(config)
    }
}

/// A service that accepts requests.
#[derive(Debug)]
pub struct RunningService {
    address: SocketAddr,
    authority: Arc<LocalAuthority>,
    service: Arc<Service>,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

/// The file with accounts and tokens in a data directory.
pub fn authority_file(data_dir: &Path) -> PathBuf {
    data_dir.join("auth.json")
}

impl RunningService {
    /// Binds the address, opens the store, and serves. On return the service accepts requests.
    ///
    /// # Errors
    /// [`Exit::AddressInUse`], or why the store or the accounts cannot be opened.
    pub async fn start(options: &ServiceOptions) -> Result<Self> {
        // Bound first: a second service on the same port must not wait for the first one's store.
        let listener = bind(options.listen).await?;
        let address = listener.local_addr().context("cannot tell the address of the socket")?;
        std::fs::create_dir_all(&options.data_dir)
            .with_context(|| format!("cannot make {}", options.data_dir.display()))?;
        let authority = Arc::new(LocalAuthority::open(authority_file(&options.data_dir))?);
        let store = Arc::new(EmbeddedStore::open(options.data_dir.join("store"))?);
        let config = ServiceConfig { issuer: Some(Arc::clone(&authority) as _), ..ServiceConfig::default() };
        let config = options.terms.apply(config, &authority)?;
        let service = Service::start(config, store, Arc::clone(&authority) as _)?;
        let stop = CancellationToken::new();
        let router = http::router(Arc::clone(&service));
        let server = tokio::spawn(http::serve(listener, router, stop.clone().cancelled_owned()));
        Ok(Self { address, authority, service, stop, server })
    }

    /// Base URL of the service.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its accounts.
    pub const fn authority(&self) -> &Arc<LocalAuthority> {
        &self.authority
    }

    /// Stops in order: submissions are refused and the service is not ready, while what is being committed is finished;
    /// then requests under way are answered and the socket is closed; then the links. Resolves with what is left, which is
    /// in the store.
    ///
    /// # Errors
    /// Why it could not go on, if it had ended before.
    pub async fn shutdown(self) -> Result<Left> {
        let left = self.service.begin_stop().await;
        self.stop.cancel();
        let served = self.server.await;
        self.service.stop().await;
        served.context("the HTTP server panicked")?.context("the HTTP server failed")?;
        Ok(left)
    }
}

/// Runs a service until a signal comes. A second one ends it at once.
///
/// # Errors
/// Why it could not start or go on.
pub async fn run(options: ServiceOptions) -> Result<ExitCode> {
    let mut signals = signal::Stop::new()?;
    let service = RunningService::start(&options).await?;
    tracing::info!(url = service.url(), data_dir = %options.data_dir.display(), "the service is ready");
    signals.wait().await;
    tracing::info!("stopping");
    let left = tokio::select! {
        left = service.shutdown() => left?,
        () = signals.wait() => {
            return Err(Failed::new(Exit::Failure, "told to stop again while stopping").into());
        }
    };
    let Left { queued, leased } = left;
    tracing::info!(queued, leased, "stopped; tasks that are left are stored, and go on with the next start");
    Ok(ExitCode::SUCCESS)
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failed::new(
            Exit::AddressInUse,
            format!("{address} is in use: stop the program that has it, or choose another port"),
        )
        .into(),
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_what_is_none_is_named() {
        let id = "00000000-0000-0000-0000-000000000007";
        assert_eq!(retention("forever"), Ok(Retention(None)));
        assert_eq!(retention("2 h"), Ok(Retention(Some(Duration::from_secs(7200)))));
        assert!(retention("0 s").unwrap_err().contains("forever"));
        assert_eq!(weight("a=b=3"), Ok(("a=b".to_owned(), 3)));
        for wrong in ["=3", id, &format!("{id}=0"), &format!("{id}=x")] {
            assert!(weight(wrong).is_err(), "{wrong}");
        }
        let directory = tempfile::tempdir().unwrap();
        let authority = LocalAuthority::open(authority_file(directory.path())).unwrap();
        let alice = authority.create_account("alice", &[]).unwrap();
        let mut terms = ServiceTerms {
            result_retention: Some(Retention(None)),
            weights: vec![(id.to_owned(), 3), ("alice".to_owned(), 2)],
            endpoint_tasks: Some(5),
            memo_size: Some(0),
        };
        let config = terms.apply(ServiceConfig::default(), &authority).unwrap();
        assert_eq!((config.result_retention, config.endpoint_tasks, config.memo_bytes), (None, 5, 0));
        assert_eq!((config.weights[&IdentityId::from_u128(7)], config.weights[&alice]), (3, 2));
        terms.weights.push(("bob".to_owned(), 1));
        let unknown = terms.apply(ServiceConfig::default(), &authority).unwrap_err();
        assert!(unknown.to_string().contains("no account `bob`"), "{unknown}");
    }
}
