//! The rules of the architecture, asserted from manifests and sources so that they cannot fade.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `folder` with this ending, as paths from the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} has no {ending} files");
    found
}

/// Names in every section of a manifest with dependencies, except those of its tests.
fn dependencies(package: &str) -> BTreeSet<String> {
    let manifest = read(&format!("{package}/Cargo.toml"));
    let mut counts = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            counts = section.ends_with("dependencies]") && !section.contains("dev-dependencies");
        } else if counts && !line.is_empty() && !line.starts_with('#') {
            names.extend(line.split(['.', ' ', '=']).next().map(str::to_owned));
        }
    }
    assert!(!names.is_empty(), "{package} depends on nothing");
    names
}

/// Code of a file, without its comments and without what follows its unit tests.
fn code(path: &str) -> String {
    let text = read(path);
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn crates_know_only_the_core() {
    let ours = ["funcx-core", "funcx-net", "funcx-provider", "funcx-mpi", "funcx-daemons"];
    for (package, allowed) in [
        ("funcx-core", &[][..]),
        ("funcx-net", &["funcx-core"]),
        ("funcx-provider", &["funcx-core"]),
        ("funcx-mpi", &["funcx-core"]),
        ("daemons", &["funcx-core", "funcx-net", "funcx-provider"]),
    ] {
        for name in dependencies(package).iter().filter(|name| ours.contains(&name.as_str())) {
            assert!(allowed.contains(&name.as_str()), "{package} must not depend on {name}");
        }
    }
}

#[test]
fn the_core_has_no_runtime_no_sockets_no_processes() {
    for banned in ["tokio", "nix", "rustix", "libc", "getrandom", "rand", "axum", "reqwest", "bincode"] {
        assert!(!dependencies("funcx-core").contains(banned), "funcx-core must not depend on {banned}");
    }
    for path in files("funcx-core/src", ".rs") {
        let code = code(&path);
        for banned in ["std::net", "std::process", "std::fs", "tokio::", "Instant::now", "SystemTime::now"] {
            assert!(!code.contains(banned), "{path} uses {banned}");
        }
    }
}

#[test]
fn state_machines_and_the_model_start_no_threads_and_have_no_futures() {
    for folder in ["funcx-core/src/state", "funcx-core/src/message", "funcx-core/src/model"] {
        for path in files(folder, ".rs") {
            let code = code(&path);
            for banned in [
                "std::thread",
                "async fn",
                "async move",
                "std::collections::HashMap",
                "std::collections::HashSet",
            ] {
                assert!(!code.contains(banned), "{path} uses {banned}");
            }
        }
    }
}

#[test]
fn the_clock_lint_of_the_core_is_in_force() {
    let lint = read("funcx-core/clippy.toml");
    for banned in ["std::time::Instant::now", "std::time::SystemTime::now", "std::collections::HashMap"] {
        assert!(lint.contains(banned), "funcx-core/clippy.toml does not ban {banned}");
    }
}

#[test]
fn only_net_opens_sockets_between_peers_and_only_provider_starts_processes() {
    for path in files("funcx-net/src", ".rs") {
        for banned in ["tokio::process", "std::process::Command"] {
            assert!(!code(&path).contains(banned), "{path} uses {banned}");
        }
    }
    for path in files("funcx-provider/src", ".rs") {
        for banned in ["TcpStream", "TcpListener", "UdpSocket"] {
            assert!(!code(&path).contains(banned), "{path} uses {banned}");
        }
    }
}

#[test]
fn bincode_is_the_link_codec_and_nothing_else() {
    for package in ["funcx-core", "funcx-net", "funcx-provider", "funcx-mpi", "daemons"] {
        for path in files(&format!("{package}/src"), ".rs") {
            assert!(
                path.starts_with("funcx-net/src/codec/") || !code(&path).contains("bincode::"),
                "{path} uses bincode"
            );
        }
    }
}

#[test]
fn libraries_read_no_environment() {
    for package in ["funcx-core", "funcx-net", "funcx-provider"] {
        for path in files(&format!("{package}/src"), ".rs") {
            assert!(!code(&path).contains("env::var"), "{path} reads the environment; daemons do that");
        }
    }
}

#[test]
fn nothing_is_left_undone_or_silenced() {
    for package in ["funcx-core", "funcx-net", "funcx-provider", "funcx-mpi", "daemons", "examples"] {
        for path in files(package, ".rs").iter().filter(|path| !path.ends_with("tests/architecture.rs")) {
            let code = code(path);
            for banned in ["todo!(", "unimplemented!(", "#[ignore", "#[allow("] {
                assert!(!code.contains(banned), "{path} has {banned}");
            }
        }
    }
}

#[test]
fn libraries_document_everything() {
    for package in ["funcx-core", "funcx-net", "funcx-provider", "funcx-mpi"] {
        let root = read(&format!("{package}/src/lib.rs"));
        assert!(root.contains("#![deny(missing_docs)]"), "{package} does not deny missing_docs");
    }
}

#[test]
fn architecture_md_names_only_what_exists() {
    let text = read("ARCHITECTURE.md");
    let paths: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.contains('/') && !word.contains([' ', '{', '*', '<', ':']))
        .collect();
    assert!(paths.len() > 20, "ARCHITECTURE.md names the folders of the code: {paths:?}");
    for path in paths {
        assert!(
            root().join(path.trim_end_matches('/')).exists(),
            "ARCHITECTURE.md names `{path}`, which does not exist"
        );
    }
}

#[test]
fn every_folder_of_code_is_in_architecture_md() {
    let text = read("ARCHITECTURE.md");
    for package in ["funcx-core", "funcx-net", "funcx-provider", "daemons"] {
        for entry in fs::read_dir(root().join(package).join("src")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                assert!(text.contains(&format!("`{name}/`")), "ARCHITECTURE.md does not name {name}/");
            }
        }
    }
}

#[test]
fn each_dependency_has_a_reason() {
    let manifest = read("Cargo.toml");
    let section: Vec<&str> = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .collect();
    let mut previous = "";
    for line in section {
        if !line.is_empty() && !line.starts_with('#') && !line.starts_with("funcx-") {
            assert!(previous.starts_with("# "), "no reason is given for `{line}`");
        }
        previous = line;
    }
}
