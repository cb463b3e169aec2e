//! `configure`.

use std::num::NonZeroU32;

use anyhow::Result;

use super::TokenSource;
use crate::config::EndpointConfig;
use crate::endpoint::Endpoints;
use crate::exit::{Exit, Failed};

#[derive(Debug, clap::Args)]
pub struct Configure {
    /// Name of the endpoint
    name: String,
    /// Base URL of the service
    #[arg(long, value_name = "URL", env = "FUNCX_SERVICE")]
    service: Option<String>,
    /// Name that users see
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
    /// Let everybody whom the service knows run functions here
    #[arg(long)]
    public: bool,
    /// Worker processes; one per core if not set
    #[arg(long, value_name = "COUNT")]
    workers: Option<NonZeroU32>,
    /// Python of the workers
    #[arg(long, value_name = "PATH", value_parser = crate::config::interpreter)]
    python: Option<String>,
    #[command(flatten)]
    token: TokenSource,
    /// Print the configuration instead of writing it
    #[arg(long)]
    dump_config: bool,
}

impl Configure {
    pub(super) fn run(self, endpoints: &Endpoints) -> Result<()> {
        let directory = endpoints.named(&self.name)?;
        let mut config =
            EndpointConfig { display_name: self.display_name, public: self.public, ..Default::default() };
        config.service = self.service.unwrap_or(config.service);
        config.python = self.python.unwrap_or(config.python);
        config.engine.max_workers_per_node = self.workers;
        // What was said on the command line has to pass the same checks as what is said in the file.
        if let Err(error) = EndpointConfig::parse(&config.to_string()) {
            let problems: Vec<_> = error
                .problems
                .iter()
                .map(|problem| format!("{} {}", problem.path, problem.message))
                .collect();
            return Err(Failed::new(Exit::Usage, problems.join("; ")).into());
        }
        if self.dump_config {
            print!("{config}");
            return Ok(());
        }
        if directory.exists() {
            let path = directory.config_path();
            return Err(Failed::new(
                Exit::NoSuchEndpoint,
                format!(
                    "there is an endpoint `{}` already; edit {}, or `delete` it first",
                    self.name,
                    path.display()
                ),
            )
            .into());
        }
        let token = self.token.read()?;
        directory.create()?;
        if let Some(token) = &token {
            directory.write_token(token)?;
        }
        directory.write_config(&config)?;
        println!("wrote {}", directory.config_path().display());
        if token.is_none() && directory.token()?.is_none() {
            println!("there is no token yet: give `start` one with --token-file or in FUNCX_TOKEN");
        }
        Ok(())
    }
}
