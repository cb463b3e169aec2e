//! Looking at the Python that workers would run in.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::Path,
    pin::pin,
    process::{ExitStatus, Stdio},
    time::Duration,
};

pub use funcx_provider::worker::OLDEST_PYTHON;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use crate::exit::{Exit, Failed};

/// Longest time for the commands of `worker_init` and the start of Python. `conda activate` on a busy file system takes
/// tens of seconds.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Most that may be printed to each of the two streams.
const MAX_PRINTED_BYTES: usize = 64 << 10;

/// Time to read what is left in the pipes when Python has ended. Only a process that made a session of its own can still
/// hold them open then.
const DRAIN: Duration = Duration::from_secs(1);

/// Longest text of a failed start that is quoted.
const MAX_QUOTED_BYTES: usize = 2000;

/// Prints one line of JSON after whatever `worker_init` prints. Old enough for any Python 3. Versions are looked up, not
/// imported: that would take a second.
const SCRIPT: &str = "
import json, sys
def version(name):
    try:
        import importlib.metadata
        return importlib.metadata.version(name)
    except Exception:
        return None
print()
print(json.dumps({
    'executable': sys.executable,
    'version': list(sys.version_info[:3]),
    'dill': version('dill'),
    'sdk': version('globus-compute-sdk'),
}))
";

/// A Python that starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Python {
    /// Path of the interpreter, as it says itself.
    pub executable: String,
    /// Major, minor and micro version.
    pub version: (u32, u32, u32),
    /// Version of `dill`, without which functions of the Globus Compute SDK do not run; `None` if it is not installed.
    pub dill: Option<String>,
    /// Version of `globus_compute_sdk`, which most functions do not need; `None` if it is not installed.
    pub sdk: Option<String>,
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, micro) = self.version;
        write!(f, "Python {major}.{minor}.{micro} at {}", self.executable)
    }
}

/// Starts `python` and asks it what it is.
///
/// # Errors
/// [`Exit::Python`] if it is missing, older than [`OLDEST_PYTHON`] or does not start; the message says what it printed.
pub async fn check_python(python: &str) -> Result<Python, Failed> {
    check_python_as(python, "", &BTreeMap::new(), Path::new(".")).await
}

/// Starts `python` in `directory` as a worker would be started, after the shell commands in `worker_init`, and asks it
/// what it is.
///
/// # Errors
/// [`Exit::Python`] if it is missing, older than [`OLDEST_PYTHON`] or does not start; the message says what it printed.
pub async fn check_python_as(
    python: &str,
    worker_init: &str,
    environment: &BTreeMap<OsString, OsString>,
    directory: &Path,
) -> Result<Python, Failed> {
    let failed = |why: String| Failed::new(Exit::Python, why);
    let mut command = if worker_init.trim().is_empty() {
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]);
        command
    } else {
        let mut command = Command::new("/bin/bash");
        // The interpreter and the script are arguments of the script, so nothing in them needs quoting.
        command.args(["-c", &format!("{worker_init}\nexec \"$0\" -c \"$1\""), python, SCRIPT]);
        command
    };
    command
        .process_group(0)
        .envs(environment)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| {
        failed(format!(
            "cannot start Python `{python}`: {error}; say which one with `--python`, or `python` in the configuration"
        ))
    })?;
    let output = match timeout(TIMEOUT, watch(child)).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(format!("Python `{python}` does not start: {error}"))),
        Err(_) => {
            return Err(failed(format!("Python `{python}` did not start within {} s", TIMEOUT.as_secs())));
        }
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    let found = printed.lines().next_back().and_then(|line| serde_json::from_str::<Python>(line).ok());
    match found {
        Some(found) if output.status.success() => {
            if (found.version.0, found.version.1) < OLDEST_PYTHON {
                return Err(failed(format!(
                    "{found} is too old: {}.{} or later is wanted",
                    OLDEST_PYTHON.0, OLDEST_PYTHON.1
                )));
            }
            Ok(found)
        }
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let end = said.len() - said.len().min(MAX_QUOTED_BYTES);
            let end = (end..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(said.len());
            Err(failed(format!(
                "Python `{python}` does not start ({}): {}",
                output.status,
                said[end..].trim()
            )))
        }
    }
}

/// What a process left behind.
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Waits for the leader of a process group and reads what it prints. The group ends with it, and when the future is dropped.
async fn watch(mut child: Child) -> io::Result<Output> {
    let group = Group(child.id());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (from_stdout, from_stderr) = (child.stdout.take(), child.stderr.take());
    let status = {
        let mut reading = pin!(async {
            tokio::try_join!(read_bounded(from_stdout, &mut stdout), read_bounded(from_stderr, &mut stderr))
        });
        let mut open = true;
        let status = loop {
            tokio::select! {
                read = &mut reading, if open => {
                    read?;
                    open = false;
                }
                status = child.wait() => break status?,
            }
        };
        drop(group);
        if open && let Ok(read) = timeout(DRAIN, reading).await {
            read?;
        }
        status
    };
    Ok(Output { status, stdout, stderr })
}

/// Reads a stream to its end.
async fn read_bounded(stream: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    stream.take(MAX_PRINTED_BYTES as u64 + 1).read_to_end(into).await?;
    if into.len() > MAX_PRINTED_BYTES {
        let most = MAX_PRINTED_BYTES >> 10;
        let message =
            format!("it, or `worker_init` before it, prints more than {most} KiB; is this a Python?");
        return Err(io::Error::other(message));
    }
    Ok(())
}

/// The process group of a leader, which is killed when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|leader| i32::try_from(leader).ok()).filter(|leader| *leader > 1);
        if let Some(leader) = leader {
            // The only failure is that nobody is left.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// Waits until the process is gone, or only its parent has not yet noticed.
    async fn gone(pid: u32) {
        let begun = Instant::now();
        while let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "process {pid} lives on: {stat}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_prints_without_end_is_refused_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let (script, pid) = (directory.path().join("python"), directory.path().join("pid"));
        for stream in ["", " >&2"] {
            fs::write(&script, format!("#!/bin/sh\necho $$ > {}\nexec yes{stream}\n", pid.display()))
                .unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
            let error = look(script.to_str().unwrap(), "").await.unwrap_err().to_string();
            assert!(error.contains("prints more than 64 KiB") && error.len() < 1000, "{error}");
            gone(fs::read_to_string(&pid).unwrap().trim().parse().unwrap()).await;
        }
    }

    #[tokio::test]
    async fn what_worker_init_leaves_running_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        // It keeps the streams open, which must not be waited for.
        look("python3", &format!("sleep 1000 & echo $! > {}", pid.display())).await.unwrap();
        gone(fs::read_to_string(&pid).unwrap().trim().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn a_look_that_is_given_up_leaves_nothing_running() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let command = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid.display());
        let written = async {
            while !pid.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            found = look("python3", &command) => panic!("{found:?}"),
            () = written => {}
        }
        gone(fs::read_to_string(&pid).unwrap().trim().parse().unwrap()).await;
    }

    async fn look(python: &str, worker_init: &str) -> Result<Python, Failed> {
        check_python_as(python, worker_init, &BTreeMap::new(), Path::new(".")).await
    }

    #[tokio::test]
    async fn python_says_what_it_is_also_after_chatty_commands() {
        let plain = look("python3", "").await.unwrap();
        assert!((plain.version.0, plain.version.1) >= OLDEST_PYTHON);
        let chatty = look("$P", "echo loading; P=python3").await;
        assert!(chatty.is_err(), "the interpreter is not expanded by the shell");
        let chatty = look("python3", "echo loading; printf x").await.unwrap();
        assert_eq!(chatty, plain);
    }

    #[tokio::test]
    async fn what_is_no_python_is_named() {
        for (python, worker_init, expected) in [
            ("no-such-python", "", "cannot start Python `no-such-python`"),
            ("false", "", "Python `false` does not start"),
            ("python3", "echo broken module >&2; exit 3", "broken module"),
        ] {
            let error = look(python, worker_init).await.unwrap_err();
            assert_eq!(error.exit, Exit::Python);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
