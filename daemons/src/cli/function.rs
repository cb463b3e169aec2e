//! `funcx function`

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use funcx_core::model::{FunctionId, Memoize, limit};
use funcx_net::client::{FunctionRegistration, FunctionView};
use uuid::Uuid;

use super::common::Common;
use super::output::{age, fields, print_aside, table};
use super::source::Source;
use crate::exit::{Exit, Failed};

/// What to do with functions.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Register a function and print its id
    Register(Register),
    /// List your functions
    List(List),
    /// Show a function and its code
    Show {
        /// Id of the function
        id: FunctionId,
    },
}

/// A function to register.
#[derive(Debug, Args)]
pub struct Register {
    /// Python file
    #[arg(required_unless_present_any = ["shell", "native"], conflicts_with_all = ["shell", "native"])]
    pub file: Option<PathBuf>,
    /// Name of the function in the file; needed if there are several
    #[arg(long, requires = "file")]
    pub entry: Option<String>,
    /// Command template instead; `{name}` in it stands for the argument of that name
    #[arg(long, value_name = "COMMAND", conflicts_with = "native")]
    pub shell: Option<String>,
    /// Rust function that the workers of an endpoint know by this name instead
    #[arg(long, value_name = "NAME")]
    pub native: Option<String>,
    /// Name for people; the name in the code if not given
    #[arg(long)]
    pub name: Option<String>,
    /// Description for people
    #[arg(long)]
    pub description: Option<String>,
    /// Let everybody use it
    #[arg(long)]
    pub public: bool,
    /// Answer calls with the values of equal ones: `own`, those of the caller; `shared`, those of anybody who may use the
    /// function, at the same endpoint
    #[arg(long, value_name = "own|shared", value_parser = memoize)]
    pub memoize: Option<Memoize>,
    /// Let the members of a group use it
    #[arg(long, value_name = "ID", conflicts_with = "public")]
    pub group: Option<Uuid>,
}

/// Which functions to list.
#[derive(Debug, Args)]
pub struct List {
    /// How many at most
    #[arg(long, default_value_t = limit::MAX_PAGE_TASKS)]
    pub limit: usize,
}

fn memoize(word: &str) -> Result<Memoize, String> {
    match word {
        "own" => Ok(Memoize::Own),
        "shared" => Ok(Memoize::Shared),
        _ => Err("`own` or `shared` is wanted".to_owned()),
    }
}

/// Does what the command line says.
pub(super) async fn run(common: &Common, command: Command) -> Result<ExitCode> {
    match command {
        Command::Register(options) => register(common, options).await?,
        Command::List(options) => list(common, options.limit).await?,
        Command::Show { id } => {
            let function = common.client()?.function(id).await?;
            common.output().show(&function, described)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn register(common: &Common, options: Register) -> Result<()> {
    let mut function = match (&options.file, options.shell, options.native) {
        (Some(path), ..) => Source { path: path.clone(), entry: options.entry }.registration()?,
        (None, Some(template), _) => FunctionRegistration::shell(template.clone(), template),
        (None, None, Some(name)) => FunctionRegistration::native(name),
        (None, None, None) => bail!(Failed::new(Exit::Usage, "say a file, --shell or --native")),
    };
    function.name = options.name.unwrap_or(function.name);
    function.description = options.description;
    function.public = options.public;
    function.memoize = options.memoize.unwrap_or_default();
    function.group = options.group;
    let registered = common.client()?.register(&function).await?;
    common.output().show(&registered, |registered| registered.function_id.to_string())
}

async fn list(common: &Common, limit: usize) -> Result<()> {
    let client = common.client()?;
    let mut functions = Vec::new();
    let mut after = None;
    loop {
        let page = client.functions(after.as_deref(), limit - functions.len()).await?;
        functions.extend(page.functions);
        after = page.next;
        if after.is_none() || functions.len() >= limit {
            break;
        }
    }
    common.output().show(&functions, |functions| {
        let row = |function: &FunctionView| {
            [
                function.function_id.to_string(),
                name(function),
                function.kind.to_string(),
                age(function.created),
            ]
        };
        table(
            ["ID", "NAME", "KIND", "REGISTERED"],
            functions.iter().map(row),
            "you have registered no functions",
        )
    })?;
    if after.is_some() {
        print_aside(&format!("there are more than {limit}; see --limit"))?;
    }
    Ok(())
}

/// The name in one short line: that of a command is the command.
fn name(function: &FunctionView) -> String {
    const WIDTH: usize = 40;
    let line = function.name.lines().next().unwrap_or_default();
    if line.chars().count() <= WIDTH {
        line.to_owned()
    } else {
        line.chars().take(WIDTH - 1).chain(['…']).collect()
    }
}

fn described(function: &FunctionView) -> String {
    let shared = match (function.public, function.group) {
        (true, _) => "with everybody".to_owned(),
        (false, Some(group)) => format!("with group {group}"),
        (false, None) => String::new(),
    };
    let about = fields([
        ("id", function.function_id.to_string()),
        ("name", function.name.clone()),
        ("kind", function.kind.to_string()),
        ("entry", function.entry.clone()),
        ("description", function.description.clone()),
        ("owner", function.owner.to_string()),
        ("shared", shared),
        (
            "memoized",
            match function.memoize {
                Memoize::Never => String::new(),
                Memoize::Own => "own values".to_owned(),
                Memoize::Shared => "values of everybody".to_owned(),
            },
        ),
        ("hash", function.hash.clone()),
        ("registered", age(function.created)),
    ]);
    match function.code.as_deref().filter(|code| !code.is_empty()) {
        Some(code) => format!("{about}\n{code}"),
        None => about,
    }
}
