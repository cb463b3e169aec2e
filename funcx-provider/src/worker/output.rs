//! The files of commands: what each one was, what it wrote, or why it did not begin.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use bytes::Bytes;
use nix::fcntl::OFlag;
use serde::Serialize;

use super::{protocol::FRAME_SPARE_BYTES, slot::Exit};

/// The directory of the files, and how much of them is of interest.
#[derive(Debug)]
pub(super) struct OutputDir {
    pub(super) path: PathBuf,
    pub(super) max_result_bytes: usize,
    pub(super) max_output_bytes: usize,
}

/// What came of a command that ended by itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandOutput {
    /// Its value.
    Returned(Bytes),
    /// Why it could not be run, in the words of a failure.
    Raised(Bytes),
    /// Nobody knows, for this reason.
    Lost(String),
}

#[derive(Serialize)]
struct Value<'a> {
    returncode: i32,
    stdout: &'a str,
    stderr: &'a str,
    cmd: &'a str,
}

impl OutputDir {
    /// Reads what the command of a task has left, and removes it.
    pub(super) fn take(&self, number: u64, template: &[u8], exit: &Exit) -> CommandOutput {
        let output = self.read(number, template, exit);
        self.remove(number);
        output.unwrap_or_else(|error| CommandOutput::Lost(format!("what the command wrote is lost: {error}")))
    }

    pub(super) fn remove(&self, number: u64) {
        for name in ["cmd", "stdout", "stderr", "raised", "new"] {
            match fs::remove_file(self.file(number, name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(%error, number, "what a command wrote stays");
                }
                _ => {}
            }
        }
    }

    fn read(&self, number: u64, template: &[u8], exit: &Exit) -> io::Result<CommandOutput> {
        if let Some(failure) = self.head(number, "raised")? {
            return Ok(CommandOutput::Raised(failure.into()));
        }
        let (Some(stdout), Some(stderr)) = (self.tail(number, "stdout")?, self.tail(number, "stderr")?)
        else {
            return Ok(CommandOutput::Lost(format!("the process {exit} before it could run the command")));
        };
        let command = self.head(number, "cmd")?;
        let value = serde_json::to_vec(&Value {
            returncode: exit.status.or(exit.signal.map(|signal| -signal)).unwrap_or_default(),
            stdout: &String::from_utf8_lossy(&stdout),
            stderr: &String::from_utf8_lossy(&stderr),
            cmd: &String::from_utf8_lossy(command.as_deref().unwrap_or(template)),
        })?;
        if value.len() > self.max_result_bytes {
            return Ok(CommandOutput::Raised(too_large(value.len(), self.max_result_bytes)));
        }
        Ok(CommandOutput::Returned(value.into()))
    }

    fn file(&self, number: u64, name: &str) -> PathBuf {
        self.path.join(format!("{number}.{name}"))
    }

    fn open(&self, number: u64, name: &str) -> io::Result<Option<File>> {
        // The command had the directory of its files in its hands: what is there now may be anything.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        match OpenOptions::new().read(true).custom_flags(flags.bits()).open(self.file(number, name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Ok(file) if !file.metadata()?.is_file() => Err(io::Error::other("it is no file any more")),
            file => file.map(Some),
        }
    }

    /// The begin of a file that is expected to be short.
    fn head(&self, number: u64, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(number, name)? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(FRAME_SPARE_BYTES as u64).read_to_end(&mut text)?;
        Ok(Some(text))
    }

    /// The end of what was written to a stream.
    fn tail(&self, number: u64, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(mut file) = self.open(number, name)? else { return Ok(None) };
        let mut text = Vec::new();
        let most = self.max_output_bytes as u64;
        let dropped = file.metadata()?.len().saturating_sub(most);
        if dropped > 0 {
            text.extend(format!("[… {dropped} bytes dropped]\n").bytes());
            file.seek(SeekFrom::Start(dropped))?;
        }
        file.take(most).read_to_end(&mut text)?;
        Ok(Some(text))
    }
}

/// What a worker says of such a value.
fn too_large(size: usize, most: usize) -> Bytes {
    let message = format!("Task result of {size}B exceeded current limit of {most}B");
    let failure = serde_json::json!({
        "code": "MaxResultSizeExceeded",
        "message": format!("remote error: {message}"),
        "traceback": format!("MaxResultSizeExceeded('{message}')"),
    });
    failure.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(files: &[(&str, &[u8])], exit: Exit) -> CommandOutput {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(format!("7.{name}")), text).unwrap();
        }
        let output = OutputDir { path: dir.path().to_owned(), max_result_bytes: 200, max_output_bytes: 10 };
        let taken = output.take(7, b"template", &exit);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
        taken
    }

    fn code(status: i32) -> Exit {
        Exit { status: Some(status), ..Exit::default() }
    }

    #[test]
    fn a_value_has_the_end_of_both_streams() {
        let files: [(&str, &[u8]); 3] =
            [("cmd", b"echo"), ("stdout", b"0123456789abcdef"), ("stderr", b"\xff\n")];
        let CommandOutput::Returned(value) = take(&files, code(3)) else { panic!("no value") };
        let expected = serde_json::json!({
            "returncode": 3, "stdout": "[… 6 bytes dropped]\n6789abcdef", "stderr": "\u{fffd}\n", "cmd": "echo",
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&value).unwrap(), expected);
        let killed = Exit { signal: Some(9), ..Exit::default() };
        let CommandOutput::Returned(value) = take(&[("stdout", b""), ("stderr", b"")], killed) else {
            panic!("no value")
        };
        assert_eq!(&value[..], br#"{"returncode":-9,"stdout":"","stderr":"","cmd":"template"}"#);
    }

    #[test]
    fn what_is_too_large_is_raised_and_so_is_what_did_not_begin() {
        let files: [(&str, &[u8]); 3] = [("cmd", &[b'x'; 200]), ("stdout", b""), ("stderr", b"")];
        let CommandOutput::Raised(failure) = take(&files, code(0)) else { panic!("a value") };
        assert!(failure.starts_with(br#"{"code":"MaxResultSizeExceeded","#), "{failure:?}");
        let files: [(&str, &[u8]); 2] = [("cmd", b"x"), ("raised", b"{}")];
        assert_eq!(take(&files, code(1)), CommandOutput::Raised("{}".into()));
        let unbegun = "the process exited with code 1 before it could run the command";
        assert_eq!(take(&[], code(1)), CommandOutput::Lost(unbegun.to_owned()));
    }
}
