//! Logs of the daemons: to standard error, one line per event.
//!
//! Every line about a task has its id in the field `task`, in every process, and the lines about what comes down have its
//! trace in `trace_id`. At the level `debug` each process logs every transition of every task.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Variable with a filter such as `info,funcx_net=debug`, in the words of `tracing_subscriber::EnvFilter`.
pub const FILTER_VARIABLE: &str = "FUNCX_LOG";

/// Variable with the form of the lines, for those who do not say it on the command line. Managers inherit it from their
/// endpoint.
pub const FORMAT_VARIABLE: &str = "FUNCX_LOG_FORMAT";

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::Args)]
pub struct LogOptions {
    /// Log in detail. The variable FUNCX_LOG, if set, decides instead
    #[arg(long, global = true)]
    pub debug: bool,
    /// Form of the lines
    #[arg(long, global = true, value_enum, env = FORMAT_VARIABLE, default_value_t)]
    pub log_format: LogFormat,
}

/// Form of the lines of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs: one object per line, with the fields of the event beside its time and level
    Json,
}

impl LogFormat {
    /// The word for it on command lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Starts to log what a daemon's operator wants to see. Called once by `main`, before anything worth logging; a second
/// call changes nothing.
pub fn init(options: LogOptions) {
    start(options, "info");
}

/// As [`init`], for commands whose answer is what people look at: warnings and errors only.
pub fn init_quiet(options: LogOptions) {
    start(options, "warn");
}

fn start(options: LogOptions, level: &str) {
    let level = if options.debug { "debug" } else { level };
    // Of other libraries, only what somebody should look at.
    let default =
        ["core", "net", "provider", "daemons"].map(|part| format!("funcx_{part}={level}")).join(",");
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,{default}")));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    // An embedder that logs already keeps its own subscriber.
    let _ = match options.log_format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(is_terminal)).try_init()
        }
    };
}
