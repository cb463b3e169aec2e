//! `start`: registers an endpoint with its service and runs it, here or in the background.

mod detached;

use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;

use self::detached::Messenger;
use super::TokenSource;
use super::check::look_for_python;
use crate::config::EndpointConfig;
use crate::endpoint::{
    Endpoint, EndpointDirectory, EndpointIdentity, Endpoints, Registered, Token, registration,
};
use crate::exit::{Exit, Failed};
use crate::logging::{self, LogOptions};
use crate::signal;

/// How long the first connection to the service may take after the service has taken the registration.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub struct Start {
    /// Name of the endpoint
    name: String,
    /// Run in the background, and return when the endpoint is connected
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    token: TokenSource,
    /// This is the process in the background
    #[arg(long, hide = true)]
    detached: bool,
}

impl Start {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Looks whether configuration, token and Python are fit to start with, before `restart` stops what runs.
    pub(super) async fn check(&mut self, endpoints: &Endpoints) -> Result<()> {
        let directory = endpoints.existing(&self.name)?;
        let read = directory.read_config()?;
        if !self.token.read_ahead()? && directory.token()?.is_none() {
            return Err(no_token().into());
        }
        look_for_python(&read.config, directory.path()).await?;
        Ok(())
    }

    pub(super) async fn run(self, endpoints: &Endpoints, log: LogOptions, invocation: &[&str]) -> Result<()> {
        let directory = endpoints.existing(&self.name)?;
        if self.detach {
            if let Some(token) = self.token.read()? {
                directory.write_token(&token)?;
            }
            return detached::start(endpoints, &directory, log, invocation).await;
        }
        let messenger = self.detached.then(Messenger::new).transpose()?;
        let result = self.serve(&directory, log, messenger.as_ref()).await;
        if let (Err(error), Some(messenger)) = (&result, &messenger) {
            messenger.failed(error);
        }
        result
    }

    async fn serve(
        &self,
        directory: &EndpointDirectory,
        log: LogOptions,
        messenger: Option<&Messenger>,
    ) -> Result<()> {
        let mut read = directory.read_config()?;
        logging::init(LogOptions { debug: log.debug || read.config.debug, ..log });
        // Its managers log as it does, unless their environment is set otherwise.
        let format = log.log_format.as_str().to_owned();
        read.config.environment.entry(logging::FORMAT_VARIABLE.to_owned()).or_insert(format);
        for note in &read.notes {
            tracing::warn!("config.yaml, {note}");
        }
        directory.create()?;
        let _running = directory.lock()?;
        let mut stop = signal::Stop::new()?;
        let mut endpoint = tokio::select! {
            endpoint = self.begin(directory, &read.config) => endpoint?,
            () = stop.wait() => return Ok(()),
        };
        if let Some(messenger) = messenger {
            messenger.ready()?;
        }
        tokio::select! {
            ended = endpoint.ended() => return ended.map_err(Into::into),
            () = stop.wait() => {}
        }
        tokio::select! {
            left = endpoint.shutdown() => left.map_err(Into::into),
            () = stop.wait() => Err(Failed::new(Exit::Failure, "told to stop again while leaving").into()),
        }
    }

    /// Registers the endpoint and starts it; resolves when it is connected.
    async fn begin(&self, directory: &EndpointDirectory, config: &EndpointConfig) -> Result<Endpoint> {
        // Blocks are processes of this machine, so that what is missing for them is missing here.
        look_for_python(config, directory.path()).await?;
        let token = self.find_token(directory)?;
        let known = directory.registered()?.filter(|known| known.service == config.service);
        let name = config.display_name.clone().unwrap_or_else(|| self.name.clone());
        let id = registration::register(config, &name, known.map(|known| known.endpoint_id), &token).await?;
        directory.write_registered(&Registered { endpoint_id: id, service: config.service.clone() })?;
        tracing::info!(endpoint = %id, name, service = config.service, "registered");
        let identity = EndpointIdentity { id, name, token, service: config.service.clone() };
        let mut endpoint = Endpoint::start(config, identity, directory.path()).await?;
        let mut status = endpoint.status();
        let connected = async {
            tokio::select! {
                ended = endpoint.ended() => ended,
                // When the endpoint has ended nobody tells its status any more, and the other branch says why.
                Ok(_) = status.wait_for(|status| status.connected) => Ok(()),
            }
        };
        match timeout(CONNECT_TIMEOUT, connected).await {
            Ok(Ok(())) => Ok(endpoint),
            Ok(Err(failed)) => Err(failed.into()),
            Err(_) => {
                let service = &config.service;
                let message = format!(
                    "registered with {service}, but cannot open a link to it (a proxy in between that knows no WebSocket?)"
                );
                endpoint.shutdown().await?;
                Err(Failed::new(Exit::Service, message).into())
            }
        }
    }

    fn find_token(&self, directory: &EndpointDirectory) -> Result<Token> {
        if let Some(token) = self.token.read()? {
            directory.write_token(&token)?;
            return Ok(token);
        }
        directory.token()?.ok_or_else(|| no_token().into())
    }
}

fn no_token() -> Failed {
    Failed::new(
        Exit::Credentials,
        "there is no token: give one with --token-file FILE (`-` for standard input) or in FUNCX_TOKEN",
    )
}
