//! `funcx chaos`, short: the real daemons under load and faults, and every promise kept.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::process::Command;

use serde_json::Value;

fn chaos(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_funcx"))
        .arg("chaos")
        .args(arguments)
        .arg("--json")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

#[test]
fn nothing_is_lost_whatever_dies() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let path = directory.to_str().unwrap();
    // What needs root is left out without it.
    let (code, report, said) = chaos(&[
        "--seconds=20",
        "--seed=1",
        "--rate=30",
        "--workers=4",
        "--fault-every=500",
        "--directory",
        path,
    ]);
    let violations = report["violations"].as_array().unwrap_or_else(|| panic!("no report: {said}"));
    assert!(violations.is_empty(), "{violations:#?}");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(report["complete"], true, "{said}");
    assert!(
        report["accepted"].as_u64() > Some(100) && report["executions"].as_u64() > Some(100),
        "{report:#}"
    );
    assert!(!report["faults"].as_object().unwrap().is_empty(), "{report:#}");

    // The files alone say the same; an outcome that is taken out of them is missed.
    let (_, again, said) = chaos(&["audit", path]);
    assert_eq!(again, report, "{said}");
    let history = directory.join("history.jsonl");
    let text = std::fs::read_to_string(&history).unwrap();
    let list = text.lines().find(|line| line.contains(r#""seen":"list""#)).unwrap();
    std::fs::write(&history, text.replace(&format!("{list}\n"), "")).unwrap();
    let (code, missing, _) = chaos(&["audit", path]);
    assert_eq!(
        (code, &missing["violations"][0]["promise"]),
        (Some(1), &"nothing-lost".into()),
        "{missing:#}"
    );
}
