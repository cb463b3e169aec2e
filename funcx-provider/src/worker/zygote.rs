//! The process that forks workers: starting it, talking to it, and finding out why it does not start.

use std::{
    fmt,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use funcx_core::model::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, ChildStderr, Command},
    sync::mpsc::{Sender, UnboundedReceiver},
    task::JoinHandle,
    time::timeout,
};

use super::{ProcessPoolConfig, driver::Input, slot::Exit};

/// The oldest Python that can be a worker: major and minor version. `worker.py` says the same about itself.
pub const OLDEST_PYTHON: (u32, u32) = (3, 8);
/// What worker.py exits with if the Python is older.
const PYTHON_TOO_OLD: i32 = 3;
/// From start to readiness. Importing packages from a busy file system can take long.
const START_TIME: Duration = Duration::from_secs(120);
/// How much of its standard error is kept.
const TAIL_BYTES: usize = 4096;
const OPERATION: &str = "start Python worker processes";

/// A zygote that is ready to fork.
#[derive(Debug)]
pub(super) struct Zygote {
    child: Child,
    pid: u32,
    lines: Lines<BufReader<OwnedReadHalf>>,
    control: OwnedWriteHalf,
    stderr: StderrTail,
}

#[derive(Serialize)]
struct Prepare<'a> {
    socket: &'a str,
    preload: &'a [String],
}

/// What a zygote says.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ZygoteNews {
    /// It forks from now on.
    Ready { ready: serde_json::Value },
    /// The worker with this number has this process id.
    Forked { forked: u64, pid: u32 },
    /// The worker with this number is gone.
    Exited { exited: u64, status: Option<i32>, signal: Option<i32> },
}

impl Zygote {
    /// Starts `python worker.py zygote` and waits until it can fork workers that connect to `socket`.
    ///
    /// # Errors
    /// `NotFound` if there is no such Python, `Unsupported` if it is too old, `Unavailable` for what may pass.
    pub(super) async fn start(config: &ProcessPoolConfig, script: &Path, socket: &str) -> Result<Self> {
        let failed =
            |what: &'static str| move |error| Error::new(ErrorKind::Io, OPERATION, what).with_source(error);
        let (ours, theirs) = StdUnixStream::pair().map_err(failed("no socket pair"))?;
        ours.set_nonblocking(true).map_err(failed("no socket pair"))?;
        let (read, control) = UnixStream::from_std(ours).map_err(failed("no socket pair"))?.into_split();

        let mut command = python_command(config, [script.as_os_str(), "zygote".as_ref()]);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| spawn_error(config, error))?;
        // The command holds our copy of the other end of the control socket.
        drop(command);
        let stderr = StderrTail::read(child.stderr.take());
        let mut zygote = Self {
            pid: child.id().unwrap_or_default(),
            lines: BufReader::new(read).lines(),
            control,
            stderr,
            child,
        };
        let prepare = Prepare { socket, preload: &config.preload };
        let ready = timeout(START_TIME, async {
            // If it has ended already, what follows tells why.
            let _ = zygote.tell(&prepare).await;
            zygote.next().await
        });
        match ready.await {
            Ok(Some(ZygoteNews::Ready { ready })) => {
                tracing::debug!(%ready, "ready to fork workers");
                Ok(zygote)
            }
            Ok(_) => {
                let status = zygote.child.wait().await.ok();
                Err(zygote.explain(config, status).await)
            }
            Err(_) => {
                Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("not ready after {START_TIME:?}"))
                    .with_context("python", config.python.display()))
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Passes commands and news on until the zygote ends or no more commands can come; then ends it. Returns why.
    pub(super) async fn run(
        mut self,
        mut forks: UnboundedReceiver<u64>,
        grace: Duration,
        inputs: &Sender<Input>,
    ) -> String {
        let why = loop {
            tokio::select! {
                news = self.next() => match news {
                    // The loop ends before this only if nobody wants to know any more; then `forks` closes.
                    Some(news) => drop(inputs.send(Input::ZygoteNews(news)).await),
                    None => break "it ended",
                },
                fork = forks.recv() => match fork {
                    Some(worker) => {
                        if self.tell(&serde_json::json!({ "fork": worker })).await.is_err() {
                            break "it does not listen";
                        }
                    }
                    None => break "it was stopped",
                },
            }
        };
        // Closing the control socket is how it is told to end its workers and itself.
        let Self { mut child, lines, control, stderr, .. } = self;
        drop((lines, control));
        let status = match timeout(grace, child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                // An error means that it has ended meanwhile.
                let _ = child.start_kill();
                child.wait().await.ok()
            }
        };
        format!("{why} ({}){}", Ended(status), stderr.quoted())
    }

    /// End of what it and its workers wrote to standard error.
    pub(super) fn stderr(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.stderr.tail)
    }

    async fn tell(&mut self, message: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.control.write_all(&line).await
    }

    /// The next news; `None` if there will be none. Safe to cancel.
    async fn next(&mut self) -> Option<ZygoteNews> {
        let line = self.lines.next_line().await.ok().flatten()?;
        serde_json::from_str(&line)
            .inspect_err(|error| tracing::warn!(line, %error, "no news of a zygote"))
            .ok()
    }

    /// Why a zygote ended before it was ready.
    async fn explain(self, config: &ProcessPoolConfig, status: Option<ExitStatus>) -> Error {
        let stderr = self.stderr.into_text().await;
        let code = status.and_then(|status| status.code());
        let wanted = format!("{}.{}", OLDEST_PYTHON.0, OLDEST_PYTHON.1);
        let advice = "name a newer one as `python`, or load it in `worker_init`";
        let too_old = |message: String| {
            Error::new(ErrorKind::Unsupported, OPERATION, message)
                .with_context("python", config.python.display())
        };
        if code == Some(PYTHON_TOO_OLD) {
            return too_old(format!("{}; {advice}", stderr.trim()));
        }
        if config.worker_init.is_some() && matches!(code, Some(126 | 127)) {
            return not_found(config).with_context("shell", stderr.trim());
        }
        match python_version(config).await {
            Some(version) if parse_version(&version).is_none_or(|version| version < OLDEST_PYTHON) => {
                too_old(format!("Python {wanted} or newer is needed, this is {version}; {advice}"))
            }
            _ => {
                Error::new(ErrorKind::Unavailable, OPERATION, format!("{}: {}", Ended(status), stderr.trim()))
                    .with_context("python", config.python.display())
            }
        }
    }
}

/// The interpreter with these arguments, after the lines of `worker_init` if there are any.
fn python_command<'a>(
    config: &'a ProcessPoolConfig,
    arguments: impl IntoIterator<Item = &'a std::ffi::OsStr>,
) -> Command {
    let mut command = match &config.worker_init {
        None => Command::new(&config.python),
        Some(init) => {
            let mut command = Command::new("/bin/bash");
            // The lines must not read what is meant for Python, so standard input is put aside for them.
            let script = format!("exec 3<&0 </dev/null\n{init}\nexec \"$0\" \"$@\" <&3 3<&-");
            command.arg("-c").arg(script).arg(&config.python);
            command
        }
    };
    // Its own group, as Ctrl-C and the signals of batch systems are for the manager to answer.
    command.args(arguments).envs(&config.environment).process_group(0).kill_on_drop(true);
    command
}

fn spawn_error(config: &ProcessPoolConfig, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound if config.worker_init.is_none() => not_found(config),
        _ => Error::new(ErrorKind::Io, OPERATION, "the program cannot be run")
            .with_context("python", config.python.display())
            .with_source(error),
    }
}

fn not_found(config: &ProcessPoolConfig) -> Error {
    let (major, minor) = OLDEST_PYTHON;
    let message = format!(
        "there is no Python at `{}`; install Python {major}.{minor} or newer, name another one as `python`, or load \
         it in `worker_init`",
        config.python.display()
    );
    Error::new(ErrorKind::NotFound, OPERATION, message)
}

/// What the interpreter says when asked for its version in a way that every Python understands.
async fn python_version(config: &ProcessPoolConfig) -> Option<String> {
    let program = "import sys; sys.stdout.write('%d.%d.%d' % tuple(sys.version_info[:3]))";
    let mut command = python_command(config, ["-c".as_ref(), program.as_ref()]);
    let output = timeout(Duration::from_secs(10), command.stdin(Stdio::null()).output()).await.ok()?.ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().chars().take(20).collect::<String>();
    (!version.is_empty()).then_some(version)
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// An exit status in words.
struct Ended(Option<ExitStatus>);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::process::ExitStatusExt;
        let status = self.0.and_then(|status| status.code());
        let signal = self.0.and_then(|status| status.signal());
        write!(f, "it {}", Exit { status, signal, stderr: String::new() })
    }
}

/// Reads standard error all the time, so that nobody blocks on it, and keeps the end.
#[derive(Debug)]
struct StderrTail {
    tail: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl StderrTail {
    fn read(stderr: Option<ChildStderr>) -> Self {
        let tail = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&tail);
        let reader = tokio::spawn(async move {
            let Some(mut stderr) = stderr else { return };
            let mut chunk = vec![0; TAIL_BYTES];
            while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
                tracing::warn!(stderr = %String::from_utf8_lossy(&chunk[..count]).trim_end(), "from worker processes");
                let mut kept = kept.lock();
                kept.extend_from_slice(&chunk[..count]);
                let surplus = kept.len().saturating_sub(TAIL_BYTES);
                kept.drain(..surplus);
            }
        });
        Self { tail, reader }
    }

    fn quoted(&self) -> String {
        match String::from_utf8_lossy(&self.tail.lock()).trim() {
            "" => String::new(),
            text => format!(": {text}"),
        }
    }

    /// All of it, once the writer has closed it.
    async fn into_text(mut self) -> String {
        // Something that worker_init left behind may hold it open.
        let _ = timeout(Duration::from_secs(1), &mut self.reader).await;
        String::from_utf8_lossy(&self.tail.lock()).into_owned()
    }
}

impl Drop for StderrTail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_apart_by_their_fields() {
        let read = |line: &str| serde_json::from_str::<ZygoteNews>(line).unwrap();
        assert!(matches!(read(r#"{"ready":{"pid":4,"details":{}}}"#), ZygoteNews::Ready { .. }));
        assert!(matches!(read(r#"{"forked":7,"pid":12}"#), ZygoteNews::Forked { forked: 7, pid: 12 }));
        let exited = read(r#"{"exited":7,"pid":12,"status":null,"signal":9}"#);
        assert!(matches!(exited, ZygoteNews::Exited { exited: 7, status: None, signal: Some(9) }));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("3.10.4").unwrap() > OLDEST_PYTHON);
        assert!(parse_version("2.7.18").unwrap() < OLDEST_PYTHON);
        assert_eq!(parse_version("PyPy"), None);
    }
}
