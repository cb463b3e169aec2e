//! Where, when and by what figures were made.

use std::time::SystemTime;

use serde::Serialize;

use crate::worker::check_python;

/// What somebody else needs to know to compare figures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    memory_gib: f64,
    funcx: &'static str,
    /// Compiler, and whether it optimised.
    build: String,
    python: String,
    date: String,
    command: String,
}

impl Machine {
    /// Looks at this machine and this process.
    pub(in super::super) async fn look(python: &str) -> Self {
        let unknown = || "unknown".to_owned();
        let kernel = nix::sys::utsname::uname().map_or_else(
            |_| unknown(),
            |name| {
                let part = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
                format!("{} {} {}", part(name.sysname()), part(name.release()), part(name.machine()))
            },
        );
        let memory_kib = field("/proc/meminfo", "MemTotal")
            .and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
        let optimised = if cfg!(debug_assertions) { "debug build: figures mean nothing" } else { "release" };
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            kernel,
            memory_gib: memory_kib.unwrap_or_default() / f64::from(1 << 20),
            funcx: env!("CARGO_PKG_VERSION"),
            build: format!("{}, {optimised}", env!("FUNCX_RUSTC")),
            python: check_python(python)
                .await
                .map_or_else(|error| format!("none: {error}"), |python| python.to_string()),
            date: httpdate::fmt_http_date(SystemTime::now()),
            command: std::iter::once("funcx".to_owned())
                .chain(std::env::args().skip(1))
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    /// Names and values, for people.
    pub(super) fn rows(&self) -> [(&'static str, String); 7] {
        [
            ("command", self.command.clone()),
            ("date", self.date.clone()),
            ("processor", format!("{} cores of {}", self.cores, self.cpu)),
            ("memory", format!("{:.1} GiB", self.memory_gib)),
            ("kernel", self.kernel.clone()),
            ("funcx", format!("{}, {}", self.funcx, self.build)),
            ("python", self.python.clone()),
        ]
    }
}

/// What stands behind `name:` in a file of the kernel, first place.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(word, _)| word.trim() == name)?;
    Some(value.trim().to_owned())
}
