//! Looking at the Python that workers would run in.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::Path, process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::process::Command;

use crate::exit::{Exit, Failed};

/// Oldest Python that `worker.py` runs in.
pub const OLDEST_PYTHON: (u32, u32) = (3, 8);

/// Longest time for the commands of `worker_init` and the start of Python. `conda activate` on a busy file system takes
/// tens of seconds.
const TIMEOUT: Duration = Duration::from_secs(120);

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
        .envs(environment)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            return Err(failed(format!(
                "cannot start Python `{python}`: {error}; say which one with `--python`, or `python` in the configuration"
            )));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
