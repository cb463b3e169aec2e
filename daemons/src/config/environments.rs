//! The environments of an endpoint: what an interpreter is set up with, under a name that tasks ask for.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use funcx_core::model::{is_environment_name, limit};
use funcx_core::state::KeepAlive;
use serde::{Deserialize, Serialize};

use super::document::Value;
use super::quantity::{format_duration, parse_duration};
use super::section::{FromValue, Section};

/// The word by which people call the environment that tasks get if they ask for none. It is the rest of the file.
const DEFAULT: &str = "default";

/// Longest time that workers without tasks are kept, if it is said.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(365 * 86_400);

/// One environment. What it does not say is as in the default one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentConfig {
    /// Python interpreter of the workers, a path or a name looked up in `PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// Shell commands run before its workers start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_init: Option<String>,
    /// Python modules loaded once, before workers are forked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preload: Option<Vec<String>>,
    /// Variables that its workers get besides those of the default one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// Environments by name, as they are handed to a manager: a JSON object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environments(pub BTreeMap<String, EnvironmentConfig>);

impl FromStr for Environments {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let environments: BTreeMap<String, EnvironmentConfig> =
            serde_json::from_str(text).map_err(|error| format!("no JSON object of environments: {error}"))?;
        check_count(environments.len())?;
        environments.keys().try_for_each(|name| check_name(name))?;
        Ok(Self(environments))
    }
}

impl fmt::Display for Environments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => Ok(()),
            // Texts and lists of texts always have a JSON form.
            false => f.write_str(&serde_json::to_string(&self.0).map_err(|_| fmt::Error)?),
        }
    }
}

fn check_count(count: usize) -> Result<(), String> {
    let most = limit::MAX_ENVIRONMENTS;
    if count > most {
        Err(format!("holds {count} environments; at most {most} are possible"))
    } else {
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name == DEFAULT {
        return Err(
            "holds the name `default`, which is that of the keys outside of `environments`".to_owned()
        );
    }
    match is_environment_name(name) {
        true => Ok(()),
        false => Err(format!("holds the name `{name}`; names are 1 to 64 letters, digits, `.`, `_` and `-`")),
    }
}

/// The environments of a file.
pub(super) fn read(file: &mut Section<'_>) -> BTreeMap<String, EnvironmentConfig> {
    let sections = file.sections("environments");
    if let Err(message) = check_count(sections.len()) {
        file.problem("environments", message);
    }
    let mut environments = BTreeMap::new();
    for (name, mut section) in sections {
        if let Err(message) = check_name(&name) {
            file.problem("environments", message);
        }
        let environment = EnvironmentConfig {
            python: section
                .get_if("python", "a path or a command name", |python: &String| !python.is_empty()),
            worker_init: section.get("worker_init"),
            preload: section.get("preload"),
            environment: section.get("environment").unwrap_or_default(),
        };
        section.finish(&[]);
        environments.insert(name, environment);
    }
    environments
}

/// What `keep_alive` says.
pub fn format_keep_alive(keep_alive: KeepAlive) -> String {
    match keep_alive {
        KeepAlive::Learned => "learned".to_owned(),
        KeepAlive::Fixed(time) => format_duration(time),
    }
}

/// What a text says about how long workers without tasks are kept.
pub fn parse_keep_alive(text: &str) -> Option<KeepAlive> {
    match text {
        "learned" => Some(KeepAlive::Learned),
        text => parse_duration(text).filter(|time| *time <= LONGEST_KEEP_ALIVE).map(KeepAlive::Fixed),
    }
}

impl FromValue for KeepAlive {
    const EXPECTED: &'static str = "`learned`, or a duration up to a year, such as `10 min`";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => parse_keep_alive(text),
            value => Duration::from_value(value).filter(|time| *time <= LONGEST_KEEP_ALIVE).map(Self::Fixed),
        }
    }
}
