//! Logs of the daemons: to standard error, one line per event.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Variable with a filter such as `info,funcx_net=debug`, in the words of `tracing_subscriber::EnvFilter`.
pub const FILTER_VARIABLE: &str = "FUNCX_LOG";

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::Args)]
pub struct LogOptions {
    /// Log in detail. The variable FUNCX_LOG, if set, decides instead
    #[arg(long, global = true)]
    pub debug: bool,
    /// Log in JSON, one object per line
    #[arg(long, global = true, env = "FUNCX_LOG_JSON")]
    pub log_json: bool,
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
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // An embedder that logs already keeps its own subscriber.
    let _ = if options.log_json {
        registry.with(layer.json()).try_init()
    } else {
        registry.with(layer).try_init()
    };
}
