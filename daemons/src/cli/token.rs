//! `funcx token`: accounts of a service on this machine. Works on its files, so the service need not run.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use funcx_core::contract::Scope;
use funcx_core::model::Timestamp;
use funcx_net::auth::{LocalAuthority, TokenInfo};
use funcx_net::driver::wall_clock;
use serde_json::{Value, json};
use uuid::Uuid;

use super::common::{Common, token_path, user_directory};
use super::output::{fields, print_aside, short, table};
use super::run::duration;
use crate::exit::{Exit, Failed};
use crate::service::authority_file;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token, or a client id and secret, and print it; it cannot be shown again
    Create(Create),
    /// List tokens and clients, without their secrets
    List(DataDirectory),
    /// End a token or a client
    Revoke {
        /// Its id as in the list
        id: String,
        /// Files of the service.
        #[command(flatten)]
        directory: DataDirectory,
    },
}

/// A token to make.
#[derive(Debug, Args)]
pub struct Create {
    /// Account that it belongs to; made if there is none
    #[arg(long)]
    pub name: String,
    /// What it is good for: `compute` to submit, `endpoint` to serve, `admin` for everything. May be given several times
    #[arg(long = "scope", default_value = "compute", value_parser = PossibleValuesParser::new(Scope::ALL.map(Scope::as_str)))]
    pub scopes: Vec<String>,
    /// How long it is good for, such as `30 d`; for good if not given
    #[arg(long, value_parser = duration, value_name = "TIME", conflicts_with = "client")]
    pub expires: Option<Duration>,
    /// What is written on it, for the list
    #[arg(long, default_value = "", conflicts_with = "client", hide_default_value = true)]
    pub label: String,
    /// Group that the account shall belong to. May be given several times
    #[arg(long = "group", value_name = "ID")]
    pub groups: Vec<Uuid>,
    /// Make a client id and secret instead, as FUNCX_SDK_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_ID want them
    #[arg(long)]
    pub client: bool,
    /// Keep it as your own token, in ~/.funcx/token, and do not print it
    #[arg(long, conflicts_with = "client")]
    pub save: bool,
    /// Files of the service.
    #[command(flatten)]
    pub directory: DataDirectory,
}

/// Where the service keeps its files.
#[derive(Debug, Args)]
pub struct DataDirectory {
    /// Data directory of the service; ~/.funcx/service if not given
    #[arg(long, env = "FUNCX_DATA_DIR", value_name = "DIRECTORY")]
    pub data_dir: Option<PathBuf>,
}

impl DataDirectory {
    /// The accounts in it, which are made if there are none.
    fn open(&self) -> Result<LocalAuthority> {
        let default = || user_directory().map(|directory| directory.join("service"));
        let Some(path) = self.data_dir.clone().or_else(default) else {
            bail!(Failed::new(Exit::Usage, "there is no home directory; say --data-dir"));
        };
        make_private_directory(&path)?;
        Ok(LocalAuthority::open(authority_file(&path))?)
    }
}

/// Does what the command line says.
pub(super) fn run(common: &Common, command: Command) -> Result<ExitCode> {
    match command {
        Command::Create(options) => create(common, &options)?,
        Command::List(directory) => list(common, &directory.open()?.list_tokens()?)?,
        Command::Revoke { id, directory } => {
            directory.open()?.revoke(&id)?;
            common.output().show(&json!({ "revoked": id }), |_| format!("revoked {id}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn create(common: &Common, options: &Create) -> Result<()> {
    let authority = options.directory.open()?;
    let scopes: Vec<_> = options.scopes.iter().filter_map(|word| Scope::from_word(word)).collect();
    let identity = authority.create_account(&options.name, &options.groups)?;
    if options.client {
        let (id, secret) = authority.create_client(identity, &scopes)?;
        return common.output().show(&json!({ "client_id": id, "client_secret": secret }), |_| {
            fields([("client id", id.to_string()), ("client secret", secret.clone())])
        });
    }
    let expires = options.expires.map(|lifetime| {
        let lifetime = u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX);
        Timestamp::from_nanos(wall_clock().as_nanos().saturating_add(lifetime))
    });
    let token = authority.create_token(identity, &scopes, expires, &options.label)?;
    if options.save {
        let Some(path) = token_path() else {
            bail!(Failed::new(Exit::Usage, "there is no home directory to keep the token in"));
        };
        save(&path, &token)?;
        return print_aside(&format!("the token is in {}", path.display()));
    }
    common.output().show(&json!({ "token": token }), |_| token.clone())
}

fn list(common: &Common, tokens: &[TokenInfo]) -> Result<()> {
    let json: Vec<Value> = tokens
        .iter()
        .map(|token| {
            json!({
                "id": token.id,
                "kind": kind(token),
                "identity": token.identity,
                "name": token.username,
                "scopes": token.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>(),
                "label": token.label,
                "expires": token.expires.map(Timestamp::as_secs_f64),
            })
        })
        .collect();
    common.output().show(&json, |_| {
        let row = |token: &TokenInfo| {
            let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
            let expires = token.expires.map_or_else(|| "never".to_owned(), time_left);
            [
                token.id.clone(),
                kind(token).to_owned(),
                token.username.clone(),
                scopes.join(" "),
                expires,
                token.label.clone(),
            ]
        };
        table(
            ["ID", "KIND", "NAME", "SCOPES", "ENDS", "LABEL"],
            tokens.iter().map(row),
            "there are no tokens",
        )
    })
}

const fn kind(token: &TokenInfo) -> &'static str {
    if token.is_client { "client" } else { "token" }
}

fn time_left(expires: Timestamp) -> String {
    match expires.as_nanos().saturating_sub(wall_clock().as_nanos()) {
        0 => "ended".to_owned(),
        nanos => format!("in {}", short(Duration::from_nanos(nanos))),
    }
}

/// Makes a directory that only its owner can enter. One that is there stays as it is.
fn make_private_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

fn save(path: &Path, token: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        make_private_directory(directory)?;
    }
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // The mode above counts only for a new file.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(token.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
