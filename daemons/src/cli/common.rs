//! What all sub-commands take: where the service is, who asks, which form the answer has.

use std::{
    env,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::Args;
use funcx_core::model::{EndpointId, limit};
use funcx_net::client::{Client, EndpointView, RetryPolicy, Token};

use super::output::Output;
use crate::endpoint::{HOME_VARIABLE, TOKEN_VARIABLE};
use crate::exit::{Exit, Failed};

/// Options that stand before or after any sub-command.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Address of the service
    #[arg(
        long,
        global = true,
        env = "FUNCX_SERVICE",
        default_value = "http://127.0.0.1:5000",
        value_name = "URL"
    )]
    pub service: String,
    /// File with a token; without it FUNCX_TOKEN counts, then ~/.funcx/token
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Common {
    /// Where and how answers are printed.
    pub(super) fn output(&self) -> Output {
        Output::new(self.json)
    }

    /// A client for short questions: somebody waits for the answer, so it gives up soon.
    pub(super) fn client(&self) -> Result<Client> {
        self.client_with(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() })
    }

    /// A client for results that may take hours, in which the service may well be started anew.
    pub(super) fn patient_client(&self) -> Result<Client> {
        self.client_with(RetryPolicy { max_attempts: 30, ..RetryPolicy::default() })
    }

    fn client_with(&self, retry: RetryPolicy) -> Result<Client> {
        let builder = Client::builder().service(&self.service).retry(retry);
        let builder = match self.token()? {
            Some(token) => builder.token(token),
            None => builder,
        };
        Ok(builder.build()?)
    }

    fn token(&self) -> Result<Option<Token>> {
        if let Some(path) = &self.token_file {
            let missing = || Failed::new(Exit::Credentials, format!("there is no {}", path.display()));
            return Ok(Some(read_token(path)?.ok_or_else(missing)?));
        }
        if let Some(secret) = env::var_os(TOKEN_VARIABLE).filter(|secret| !secret.is_empty()) {
            let Some(token) = secret.to_str().and_then(|secret| Token::new(secret).ok()) else {
                return Err(Failed::new(Exit::Credentials, format!("{TOKEN_VARIABLE} holds no token")).into());
            };
            return Ok(Some(token));
        }
        match token_path() {
            Some(path) => read_token(&path),
            None => Ok(None),
        }
    }
}

/// The directory of everything that belongs to this user.
pub(super) fn user_directory() -> Option<PathBuf> {
    let set = env::var_os(HOME_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    set.or_else(|| env::home_dir().map(|home| home.join(".funcx")))
}

/// The file whose token is used when nothing else is said.
pub(super) fn token_path() -> Option<PathBuf> {
    user_directory().map(|directory| directory.join("token"))
}

/// The token in a file; `None` if there is no such file.
fn read_token(path: &Path) -> Result<Option<Token>> {
    let credentials = |why: String| Failed::new(Exit::Credentials, format!("{} {why}", path.display()));
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(limit::MAX_TEXT_BYTES as u64 + 2).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| credentials(format!("cannot be read: {error}")))?,
    };
    let metadata = fs::metadata(path).map_err(|error| credentials(format!("cannot be read: {error}")))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let why = format!("is open to others (mode {mode:o}); say `chmod 600` and make a new token");
        return Err(credentials(why).into());
    }
    Ok(Some(Token::new(&text).map_err(|_| credentials("holds no token".to_owned()))?))
}

/// The endpoint that is meant by an id or a name; without either the only one there is.
pub(super) async fn find_endpoint(client: &Client, said: Option<&str>) -> Result<EndpointView> {
    match said {
        Some(said) => match said.parse::<EndpointId>() {
            Ok(id) => Ok(client.endpoint(id).await?),
            Err(_) => Ok(client.endpoint_named(said).await?),
        },
        None => only_one(client.endpoints().await?),
    }
}

/// The only endpoint, or else the only one that is connected.
fn only_one(mut endpoints: Vec<EndpointView>) -> Result<EndpointView> {
    if endpoints.is_empty() {
        let message = "you have no endpoint; `funcx-endpoint configure` and `funcx-endpoint start` make one";
        return Err(Failed::new(Exit::NoSuchEndpoint, message).into());
    }
    if endpoints.len() > 1 && endpoints.iter().filter(|endpoint| endpoint.connected).count() == 1 {
        endpoints.retain(|endpoint| endpoint.connected);
    }
    if endpoints.len() > 1 {
        let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
        bail!(Failed::new(
            Exit::Usage,
            format!("say --endpoint or FUNCX_ENDPOINT_ID: you have several endpoints ({})", names.join(", "))
        ));
    }
    Ok(endpoints.remove(0))
}
