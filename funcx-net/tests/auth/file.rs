//! The file, and other processes that use it.

use std::{
    env, fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use funcx_core::contract::Scope;
use funcx_core::model::ErrorKind;
use funcx_net::auth::LocalAuthority;

use super::super::{Scene, bearer, refused, text_of};

const CREATOR: &str = "FUNCX_TEST_CREATE_TOKENS";
const PROCESSES: usize = 4;
const TOKENS: usize = 10;

#[test]
fn every_file_is_for_its_owner_only() {
    let scene = Scene::new();
    scene.token(&[Scope::Compute]);
    for entry in fs::read_dir(scene.directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[test]
fn a_missing_directory_is_made_for_its_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("service");
    LocalAuthority::open(directory.join("auth.json")).unwrap();
    assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn what_another_process_changes_counts_at_once() {
    let scene = Scene::new();
    let service = scene.elsewhere();
    let token = scene.token(&[Scope::Compute]);
    bearer(&service, &token).await.expect("a new token works without a restart");

    let id = scene.authority.list_tokens().unwrap()[0].id.clone();
    scene.authority.revoke(&id).unwrap();
    assert_eq!(bearer(&service, &token).await, refused("unknown token"), "a revoked one does not");
    assert_eq!(service.list_tokens().unwrap(), []);
}

#[tokio::test]
async fn a_file_that_was_damaged_lets_nobody_in() {
    let scene = Scene::new();
    let token = scene.token(&[Scope::Compute]);
    bearer(&scene.authority, &token).await.unwrap();
    let text = text_of(&scene.path());
    fs::write(scene.path(), &text[..text.len() / 2]).unwrap();
    assert_eq!(bearer(&scene.authority, &token).await.unwrap_err().0, ErrorKind::Unavailable);
    fs::remove_file(scene.path()).unwrap();
    assert_eq!(bearer(&scene.authority, &token).await.unwrap_err().0, ErrorKind::Unavailable);
    fs::write(scene.path(), text).unwrap();
    fs::set_permissions(scene.path(), fs::Permissions::from_mode(0o600)).unwrap();
    bearer(&scene.authority, &token).await.expect("it works again when it is mended");
}

/// How the file, changed like this, is refused.
fn refusal(change: impl FnOnce(String) -> String) -> (ErrorKind, String) {
    let scene = Scene::new();
    scene.token(&[Scope::Compute]);
    fs::write(scene.path(), change(text_of(&scene.path()))).unwrap();
    let error = LocalAuthority::open(scene.path()).expect_err("it must be refused");
    let text = error.to_string();
    assert!(text.contains(&scene.path().display().to_string()), "it names the file: {text}");
    (error.kind(), text)
}

#[test]
fn a_bad_file_is_refused_with_its_path_and_line() {
    type Row = (&'static str, fn(String) -> String, &'static str);
    let rows: [Row; 6] = [
        ("cut", |text| text[..40].to_owned(), "line: 3"),
        ("no JSON", |text| format!("{text}}}"), "not JSON"),
        ("an unknown field", |text| text.replacen("\"accounts\"", "\"acounts\"", 1), "line: 4"),
        ("a key that is none", |text| text.replacen("\"key\": \"", "\"key\": \"x", 1), "line: 3"),
        ("a scope that is none", |text| text.replacen("compute", "compte", 1), "line: "),
        ("empty", |_| String::new(), "line: 1"),
    ];
    for (what, change, expected) in rows {
        let (kind, text) = refusal(change);
        assert_eq!(kind, ErrorKind::InvalidInput, "{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
    }
}

#[test]
fn a_file_of_a_newer_version_is_refused_with_both_versions() {
    let (kind, text) = refusal(|text| text.replacen("\"version\": 1", "\"version\": 9, \"unknown\": 1", 1));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("version 9") && text.contains("version 1"), "{text}");
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let scene = Scene::new();
    fs::set_permissions(scene.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let error = LocalAuthority::open(scene.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

/// Runs itself again as several processes that make tokens at the same time.
#[tokio::test]
async fn tokens_that_processes_make_at_the_same_time_are_all_there() {
    if let Ok(path) = env::var(CREATOR) {
        let authority = LocalAuthority::open(path).unwrap();
        let identity = authority.create_account("alice", &[]).unwrap();
        println!();
        for _ in 0..TOKENS {
            println!("token {}", authority.create_token(identity, &[Scope::Compute], None, "").unwrap());
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    // The file does not exist yet: they also make it at the same time.
    let path = directory.path().join("auth.json");
    let creators = (0..PROCESSES).map(|_| {
        Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "auth::file::tokens_that_processes_make_at_the_same_time_are_all_there",
                "--nocapture",
            ])
            .env(CREATOR, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut tokens = Vec::new();
    for mut creator in creators.collect::<Vec<_>>() {
        let mut text = String::new();
        creator.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(creator.wait().unwrap().success());
        tokens.extend(text.lines().filter_map(|line| line.strip_prefix("token ")).map(str::to_owned));
    }
    assert_eq!(tokens.len(), PROCESSES * TOKENS);
    let authority = LocalAuthority::open(&path).unwrap();
    let alice = authority.create_account("alice", &[]).unwrap();
    for token in tokens {
        assert_eq!(bearer(&authority, &token).await.expect("no token is lost").identity, alice);
    }
}
