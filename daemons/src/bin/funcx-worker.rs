//! `funcx-worker`: runs the tasks of an endpoint. Endpoints start it; a binary with native functions of one's own is
//! this file with another closure.

use std::process::ExitCode;

fn main() -> ExitCode {
    funcx_daemons::worker::main(|_| Ok(()))
}
