//! `funcx up`: what keeps it from starting is said before anything starts, and it leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn up(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_funcx"));
    command.args(["up", "--json"]).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn fails(arguments: &[&str], exit: i32) -> String {
    let Output { status, stdout, stderr } = up(arguments).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.len()), (Some(exit), 0), "{said}");
    said
}

/// A fabric that is ready, and the line that it printed.
fn ready(arguments: &[&str]) -> (Child, Value) {
    let mut child = up(arguments).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

fn stop(mut child: Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A file that is there to be run.
fn script(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_port_in_use_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = fails(&["--port", &port], 11);
    assert!(
        said.contains(&format!("127.0.0.1:{port} is in use")) && said.contains("choose another port"),
        "{said}"
    );
}

#[test]
fn a_missing_python_is_named_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let said = fails(&["--port", "0", "--python", "no-such-python", "--data-dir", data.to_str().unwrap()], 9);
    assert!(said.contains("no-such-python"), "{said}");
    assert!(!data.exists(), "nothing was started");
}

#[test]
fn a_python_that_is_too_old_is_named_with_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    // Old interpreters are hard to come by; this one answers as they do.
    let old = script(
        &directory.path().join("python3.6"),
        "#!/bin/sh\nexec python3 -c 'import sys, runpy; sys.version_info = (3, 6, 9, \"final\", 0); sys.argv = sys.argv[1:]; \
         exec(compile(sys.argv[1] if sys.argv[0] == \"-c\" else open(sys.argv[0]).read(), \"old\", \"exec\"))' \"$@\"\n",
    );
    let said = fails(&["--port", "0", "--python", &old], 9);
    assert!(said.contains("3.6.9") && said.contains("3.8"), "{said}");
}

#[test]
fn a_data_directory_serves_one_fabric_at_a_time_and_outlives_it() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let arguments = ["--port", "0", "--workers", "1", "--data-dir", data.to_str().unwrap()];
    let (first, line) = ready(&arguments);
    let said = fails(&arguments, 1);
    assert!(said.contains("data/store") && said.contains("another process"), "{said}");
    stop(first);
    let (second, again) = ready(&arguments);
    for field in ["endpoint_id", "token", "client_id", "client_secret"] {
        assert_eq!(line[field], again[field], "{field} stays");
    }
    let secrets = std::fs::metadata(data.join("credentials.json")).unwrap();
    assert_eq!(secrets.permissions().mode() & 0o777, 0o600);
    stop(second);
}

#[test]
fn garbage_on_the_link_and_on_the_port_hurts_nobody() {
    let (fabric, line) = ready(&["--port", "0", "--workers", "1"]);
    let address = line["service"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let upgrade = format!(
        "GET /v1/link HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    // Masked frames: a text, a frame of no known kind, a hello that is cut off, and one that claims 2^62 bytes.
    let frames: [&[u8]; 4] = [
        &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'],
        &[0x82, 0x82, 0, 0, 0, 0, 0xff, 0xff],
        &[0x82, 0x83, 0, 0, 0, 0, 1, 9, 9],
        &[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for frame in frames {
        let mut link = TcpStream::connect(&address).unwrap();
        link.write_all(upgrade.as_bytes()).unwrap();
        link.write_all(frame).unwrap();
        let mut said = Vec::new();
        // The service closes; how, is its business.
        let _ = link.read_to_end(&mut said);
        assert!(said.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&said));
    }
    let mut port = TcpStream::connect(&address).unwrap();
    port.write_all(&[0xff; 4096]).unwrap();
    let _ = port.read_to_end(&mut Vec::new());

    let run = Command::new(env!("CARGO_BIN_EXE_funcx"))
        .args(["run", "--shell", "echo still here"])
        .env("FUNCX_SERVICE", line["service"].as_str().unwrap())
        .env("FUNCX_TOKEN", line["token"].as_str().unwrap())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&run.stdout).contains("still here"), "{run:?}");
    stop(fabric);
}
