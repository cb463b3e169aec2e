//! Service, endpoint and workers in one go, for a laptop, a demonstration, a test.
//!
//! The same parts as the daemons have, joined by the same link over loopback.

pub mod demo;
pub mod up;

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use funcx_core::contract::{Authority, Credential, Scope};
use funcx_core::model::EndpointId;
use funcx_net::auth::LocalAuthority;
use funcx_net::driver::wall_clock;
use serde::{Deserialize, Serialize};

use crate::config::EndpointConfig;
use crate::endpoint::{Endpoint, EndpointIdentity, Token, registration};
use crate::exit::{Exit, Failed};
use crate::service::{DEFAULT_PORT, RunningService, ServiceOptions, ServiceTerms};

/// Time for workers to start before the fabric is said to have failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Account that everything in an all-in-one fabric belongs to.
const ACCOUNT: &str = "local";

/// What `funcx up` and `funcx demo` have in common.
#[derive(Debug, Clone, Args)]
pub struct FabricOptions {
    /// Port of the service on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Directory that keeps functions, tasks and results; a temporary one if not given
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Worker processes; one per core if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub workers: Option<u32>,
    /// Python interpreter of the workers
    #[arg(long, default_value = "python3", value_parser = crate::config::interpreter)]
    pub python: String,
}

/// Who may use an all-in-one fabric. Kept in its data directory, readable for the owner only.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Bearer token.
    pub token: String,
    /// Name of a robot account, for scripts that know only environment variables.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("endpoint_id", &self.endpoint_id).finish_non_exhaustive()
    }
}

/// A running all-in-one fabric.
#[derive(Debug)]
pub struct Fabric {
    service: RunningService,
    endpoint: Endpoint,
    credentials: Credentials,
    /// Removes itself, if nobody asked for a directory that stays.
    _temporary: Option<tempfile::TempDir>,
}

impl Fabric {
    /// Starts everything; on return workers are ready.
    ///
    /// # Errors
    /// [`Exit::AddressInUse`], [`Exit::Python`] if Python is missing or too old, or whatever else keeps a part from
    /// starting.
    pub async fn start(options: &FabricOptions) -> Result<Self> {
        crate::worker::check_python(&options.python).await?;
        let temporary = match options.data_dir {
            Some(_) => None,
            None => Some(
                tempfile::Builder::new()
                    .prefix("funcx-")
                    .permissions(PermissionsExt::from_mode(0o700))
                    .tempdir()
                    .context("no temporary directory")?,
            ),
        };
        let data_dir = match (&options.data_dir, &temporary) {
            (Some(given), _) => std::path::absolute(given)?,
            (None, Some(made)) => made.path().to_owned(),
            (None, None) => bail!("there is no data directory"),
        };
        let listen = SocketAddr::from(([127, 0, 0, 1], options.port));
        let service = RunningService::start(&ServiceOptions {
            listen,
            data_dir: data_dir.clone(),
            terms: ServiceTerms::default(),
        })
        .await?;
        let mut config = EndpointConfig {
            service: service.url(),
            python: options.python.clone(),
            ..EndpointConfig::default()
        };
        config.engine.max_workers_per_node = options.workers.and_then(std::num::NonZeroU32::new);
        let credentials = credentials(&service, &config, &data_dir).await?;
        let identity = EndpointIdentity {
            id: credentials.endpoint_id,
            name: ACCOUNT.to_owned(),
            token: Token::new(&credentials.token).context("the stored token is not one")?,
            service: service.url(),
        };
        let endpoint = Endpoint::start(&config, identity, &data_dir.join("endpoint")).await?;
        let mut fabric = Self { service, endpoint, credentials, _temporary: temporary };
        if let Err(error) = fabric.ready().await {
            // What it says is why the start failed; what else goes wrong on the way out is of no interest.
            let _ = fabric.shutdown().await;
            return Err(error);
        }
        Ok(fabric)
    }

    /// Base URL of the service.
    pub fn url(&self) -> String {
        self.service.url()
    }

    /// Who may use it.
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Resolves if the endpoint ends by itself.
    ///
    /// # Errors
    /// Why.
    pub async fn ended(&mut self) -> Result<()> {
        Ok(self.endpoint.ended().await?)
    }

    /// Stops the endpoint with its workers, then the service.
    ///
    /// # Errors
    /// Why a part could not go on, if it had ended before.
    pub async fn shutdown(self) -> Result<()> {
        let endpoint = self.endpoint.shutdown().await;
        self.service.shutdown().await?;
        Ok(endpoint?)
    }

    /// Waits until workers are there and the service knows it.
    async fn ready(&mut self) -> Result<()> {
        let mut status = self.endpoint.status();
        let came_up =
            status.wait_for(|status| (status.connected && status.workers > 0) || status.problem.is_some());
        let status = tokio::select! {
            // Why it has ended says more than that it tells nothing any more.
            biased;
            ended = self.endpoint.ended() => return Ok(ended?),
            Ok(status) = came_up => status.clone(),
            () = tokio::time::sleep(PATIENCE) => bail!("no worker was ready after {} s", PATIENCE.as_secs()),
        };
        match status.problem {
            Some(problem) => Err(Failed::new(Exit::Failure, problem).into()),
            None => Ok(()),
        }
    }
}

/// The credentials in the data directory, if they are still good; else new ones.
async fn credentials(
    service: &RunningService,
    config: &EndpointConfig,
    data_dir: &Path,
) -> Result<Credentials> {
    let file = data_dir.join("credentials.json");
    let known: Option<Credentials> =
        std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(known) = known {
        let credential = Credential::Bearer(known.token.clone());
        if service.authority().authenticate(&credential, wall_clock()).await.is_ok() {
            // Somebody may have deleted the endpoint meanwhile.
            let shown = Token::new(&known.token).context("the stored token is not one")?;
            registration::register(config, ACCOUNT, Some(known.endpoint_id), &shown).await?;
            return Ok(known);
        }
    }
    let authority: &LocalAuthority = service.authority();
    let account = authority.create_account(ACCOUNT, &[])?;
    let scopes = [Scope::Compute, Scope::Endpoint];
    let token = authority.create_token(account, &scopes, None, "funcx up")?;
    let (client_id, client_secret) = authority.create_client(account, &scopes)?;
    let shown = Token::new(&token).context("the new token is not one")?;
    let endpoint_id = registration::register(config, ACCOUNT, None, &shown).await?;
    let made = Credentials { endpoint_id, token, client_id: client_id.to_string(), client_secret };
    crate::endpoint::write_private(&file, &serde_json::to_vec_pretty(&made)?)?;
    Ok(made)
}
