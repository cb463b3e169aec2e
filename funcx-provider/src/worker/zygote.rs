//! The process that forks workers and commands: starting it, talking to it, and finding out why it does not start.

use std::{
    fmt,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::Path,
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use funcx_core::model::{Error, ErrorKind, Result, Task};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
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

use super::{ProcessPoolConfig, connection::write_frames, driver::Input, slot::Exit};
use crate::process_group::ProcessGroup;

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
    details: Bytes,
    lines: Lines<BufReader<OwnedReadHalf>>,
    control: OwnedWriteHalf,
    stderr: StderrTail,
}

/// What a zygote is told first.
#[derive(Debug, Serialize)]
pub(super) struct Prepare<'a> {
    pub(super) socket: &'a str,
    pub(super) preload: &'a [String],
    pub(super) work_dir: &'a str,
    /// Where commands leave their files.
    pub(super) output_dir: &'a str,
}

/// The request for a worker.
pub(super) fn fork_order(worker: u64) -> Vec<Bytes> {
    vec![format!("{{\"fork\":{worker}}}\n").into()]
}

/// The request for the command of a task, by this number: what is made of it the zygote leaves to the new process.
pub(super) fn command_order(number: u64, task: &Task) -> Vec<Bytes> {
    let contents = [&task.spec.function.body().code, &task.spec.options, &task.payload];
    let [template, options, payload] = contents.map(Bytes::len);
    let line = format!(
        "{{\"command\":{number},\"task\":\"{}\",\"sizes\":[{template},{options},{payload}]}}\n",
        task.id
    );
    let contents = contents.into_iter().filter(|bytes| !bytes.is_empty()).cloned();
    std::iter::once(line.into()).chain(contents).collect()
}

/// What a zygote says.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ZygoteNews {
    /// It forks from now on.
    Ready { ready: Readiness },
    /// The worker with this number has this process id.
    Forked { forked: u64, pid: u32 },
    /// The worker with this number is gone.
    Exited { exited: u64, status: Option<i32>, signal: Option<i32> },
    /// The command with this number has this process id.
    Started { started: u64, pid: u32, at: u64 },
    /// The command with this number is gone.
    Ended { ended: u64, status: Option<i32>, signal: Option<i32>, at: u64 },
}

/// What a zygote says about itself.
#[derive(Debug, Deserialize)]
pub(super) struct Readiness {
    details: serde_json::Map<String, serde_json::Value>,
}

/// A zygote that may never listen, because an import in it takes for ever. It has forked nothing, so it is killed when this is
/// dropped, unless it is ready.
struct Starting<'a> {
    child: &'a mut Child,
    is_ready: bool,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if !self.is_ready {
            let group = self.child.id().and_then(ProcessGroup::of_leader);
            group.into_iter().for_each(ProcessGroup::kill);
        }
    }
}

impl Zygote {
    /// Starts `python worker.py zygote` and waits until it can fork.
    ///
    /// # Errors
    /// `NotFound` if there is no such Python, `Unsupported` if it is too old, `Unavailable` for what may pass.
    pub(super) async fn start(
        config: &ProcessPoolConfig,
        script: &Path,
        prepare: &Prepare<'_>,
    ) -> Result<Self> {
        let failed =
            |what: &'static str| move |error| Error::new(ErrorKind::Io, OPERATION, what).with_source(error);
        let (ours, theirs) = StdUnixStream::pair().map_err(failed("no socket pair"))?;
        ours.set_nonblocking(true).map_err(failed("no socket pair"))?;
        let (read, control) = UnixStream::from_std(ours).map_err(failed("no socket pair"))?.into_split();

        let mut command = python_command(config, [script.as_os_str(), "zygote".as_ref()]);
        // It is not killed when it is dropped: closing its input is how it ends what it has forked, and itself.
        command.kill_on_drop(false);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| spawn_error(config, error))?;
        // The command holds our copy of the other end of the control socket.
        drop(command);
        let stderr = StderrTail::read(child.stderr.take());
        let mut zygote = Self {
            pid: child.id().unwrap_or_default(),
            details: Bytes::new(),
            lines: BufReader::new(read).lines(),
            control,
            stderr,
            child,
        };
        let mut starting = Starting { child: &mut zygote.child, is_ready: false };
        let ready = timeout(START_TIME, async {
            // If it has ended already, what follows tells why.
            let _ = zygote.control.write_all(format!("{}\n", json!(prepare)).as_bytes()).await;
            next_news(&mut zygote.lines).await
        });
        match ready.await {
            Ok(Some(ZygoteNews::Ready { ready })) => {
                starting.is_ready = true;
                drop(starting);
                tracing::debug!(?ready, "ready to fork");
                zygote.details = json!(ready.details).to_string().into();
                Ok(zygote)
            }
            Ok(_) => {
                let status = starting.child.wait().await.ok();
                drop(starting);
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

    /// What it says about its Python, as the text of a JSON object.
    pub(super) fn details(&self) -> Bytes {
        self.details.clone()
    }

    /// Passes orders and news on until the zygote ends or no more orders can come; then ends it. Returns why.
    pub(super) async fn run(
        self,
        orders: UnboundedReceiver<Vec<Bytes>>,
        grace: Duration,
        inputs: &Sender<Input>,
    ) -> String {
        let Self { mut child, mut lines, control, stderr, .. } = self;
        let why = {
            // It may have news of thousands while a large order is written, and reads no further before they are taken.
            let mut writes = pin!(write_frames(control, orders));
            loop {
                tokio::select! {
                    news = next_news(&mut lines) => match news {
                        // The loop ends before this only if nobody wants to know any more; then `orders` closes.
                        Some(news) => drop(inputs.send(Input::ZygoteNews(news)).await),
                        None => break "it ended",
                    },
                    written = &mut writes => match written {
                        Ok(()) => break "it was stopped",
                        Err(_) => {
                            // What it has said before still counts: there may be processes that nobody else knows of.
                            let rest = async {
                                while let Some(news) = next_news(&mut lines).await {
                                    let _ = inputs.send(Input::ZygoteNews(news)).await;
                                }
                            };
                            let _ = timeout(grace, rest).await;
                            break "it does not listen";
                        }
                    },
                }
            }
        };
        // Closing the control socket is how it is told to end what it has forked, and itself.
        drop(lines);
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

/// The next news; `None` if there will be none. Safe to cancel.
async fn next_news(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> Option<ZygoteNews> {
    let line = lines.next_line().await.ok().flatten()?;
    serde_json::from_str(&line).inspect_err(|error| tracing::warn!(line, %error, "no news of a zygote")).ok()
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
    use funcx_core::model::{Function, IdentityId, TaskId, TaskSpec};

    use super::*;

    #[test]
    fn news_are_told_apart_by_their_fields() {
        let read = |line: &str| serde_json::from_str::<ZygoteNews>(line).unwrap();
        assert!(matches!(read(r#"{"ready":{"pid":4,"details":{}}}"#), ZygoteNews::Ready { .. }));
        assert!(matches!(read(r#"{"forked":7,"pid":12}"#), ZygoteNews::Forked { forked: 7, pid: 12 }));
        let exited = read(r#"{"exited":7,"pid":12,"status":null,"signal":9}"#);
        assert!(matches!(exited, ZygoteNews::Exited { exited: 7, status: None, signal: Some(9) }));
        let started = read(r#"{"started":7,"pid":12,"at":5}"#);
        assert!(matches!(started, ZygoteNews::Started { started: 7, pid: 12, at: 5 }));
        let ended = read(r#"{"ended":7,"pid":12,"status":3,"signal":null,"at":6}"#);
        assert!(matches!(ended, ZygoteNews::Ended { ended: 7, status: Some(3), signal: None, at: 6 }));
    }

    #[test]
    fn an_order_says_how_long_its_contents_are() {
        let spec = TaskSpec::new(Arc::new(Function::shell("echo {0}")), IdentityId::from_u128(1));
        let task = Task::new(TaskId::from_u128(10), Arc::new(spec), r#"{"args":[1]}"#);
        let [line, template, payload] = &command_order(7, &task)[..] else { panic!("an empty piece") };
        let expected = json!({"command": 7, "task": task.id.to_string(), "sizes": [8, 0, 12]});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(line).unwrap(), expected);
        assert_eq!((&template[..], &payload[..]), (&b"echo {0}"[..], &br#"{"args":[1]}"#[..]));
    }

    #[tokio::test]
    async fn what_never_gets_ready_ends_with_who_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut config = ProcessPoolConfig::new(1, dir.path());
        config.worker_init = Some(format!("exec 4>'{}'; sleep 1000", fifo.display()));
        let prepare = Prepare { socket: "", preload: &[], work_dir: "", output_dir: "" };
        let opened = tokio::select! {
            started = Zygote::start(&config, Path::new("worker.py"), &prepare) => panic!("{started:?}"),
            opened = tokio::fs::File::open(&fifo) => opened,
        };
        // Nobody has it open for writing any more.
        assert_eq!(opened.unwrap().read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("3.10.4").unwrap() > OLDEST_PYTHON);
        assert!(parse_version("2.7.18").unwrap() < OLDEST_PYTHON);
        assert_eq!(parse_version("PyPy"), None);
    }
}
