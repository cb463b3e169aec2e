//! `delete`.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;

use super::stop::Stop;
use crate::endpoint::{Endpoints, Running, registration};
use crate::exit::{Exit, Failed};

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Name of the endpoint
    name: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
    /// Stop it first if it runs, and go on if the service cannot be reached
    #[arg(long)]
    force: bool,
}

impl Delete {
    pub(super) async fn run(self, endpoints: &Endpoints) -> Result<()> {
        let directory = endpoints.existing(&self.name)?;
        if matches!(directory.running()?, Running::Yes(_)) && !self.force {
            let message = format!("the endpoint `{}` runs; stop it first, or say --force", self.name);
            return Err(Failed::new(Exit::WrongState, message).into());
        }
        if !self.yes && !confirmed(&self.name)? {
            println!("nothing was deleted");
            return Ok(());
        }
        if self.force {
            Stop::before_start(&self.name).run_if_running(endpoints).await?;
        }
        if let (Some(registered), Some(token)) = (directory.registered()?, directory.token()?) {
            match registration::delete(&registered.service, registered.endpoint_id, &token).await {
                Ok(()) => {}
                Err(error) if self.force => eprintln!("the service keeps its record: {error:#}"),
                Err(error) => {
                    return Err(error.context("nothing was deleted; --force deletes here all the same"));
                }
            }
        }
        directory.remove()?;
        println!("deleted endpoint `{}`", self.name);
        Ok(())
    }
}

fn confirmed(name: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Failed::new(Exit::Usage, "say --yes to delete without being asked").into());
    }
    print!("Delete endpoint `{name}` with its configuration and its logs? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
