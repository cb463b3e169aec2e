//! What is asked for: one call of a function on an endpoint.

use std::{collections::BTreeMap, time::Duration};

use funcx_core::model::{EndpointId, FunctionId, Shape, Target, limit};
use funcx_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::http::wire::Resources;

/// Arguments of one call, as JSON text in the form that the kind of the function wants.
#[derive(Debug, Clone)]
pub struct Arguments(Box<RawValue>);

impl Arguments {
    /// The value itself. Native functions take this form: one argument is its value, several are a tuple, none is
    /// `()`.
    ///
    /// # Errors
    /// `InvalidInput` if the value has no JSON form, `LimitExceeded` if that is longer than
    /// [`MAX_PAYLOAD_BYTES`](limit::MAX_PAYLOAD_BYTES).
    pub fn value(value: &(impl Serialize + ?Sized)) -> Result<Self> {
        serde_json::value::to_raw_value(value)
            .map_err(|error| {
                Error::new(ErrorKind::InvalidInput, "encode arguments", "they have no JSON form")
                    .with_source(error)
            })
            .and_then(Self::raw)
    }

    /// Positional and named arguments of a Python function or a command template: `{"args": …, "kwargs": …}`.
    /// `args` has to be a sequence or a tuple, `kwargs` a map with text keys or a struct.
    ///
    /// # Errors
    /// As [`Arguments::value`].
    pub fn python(args: &(impl Serialize + ?Sized), kwargs: &(impl Serialize + ?Sized)) -> Result<Self> {
        #[derive(Serialize)]
        struct Form<'a, A: ?Sized, K: ?Sized> {
            args: &'a A,
            kwargs: &'a K,
        }
        Self::value(&Form { args, kwargs })
    }

    /// JSON text that is taken as it stands.
    ///
    /// # Errors
    /// `LimitExceeded` as in [`Arguments::value`].
    pub fn raw(json: Box<RawValue>) -> Result<Self> {
        if json.get().len() > limit::MAX_PAYLOAD_BYTES {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "encode arguments",
                "they are longer than MAX_PAYLOAD_BYTES",
            )
            .with_context("bytes", json.get().len()));
        }
        Ok(Self(json))
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// Length of the JSON text in bytes.
    pub fn size_bytes(&self) -> usize {
        self.as_json().len()
    }

    pub(super) fn into_raw(self) -> Box<RawValue> {
        self.0
    }
}

/// One call: where, what, with which arguments, and how.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) target: CallTarget,
    pub(super) arguments: Arguments,
}

/// What calls that may travel in one request have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CallTarget {
    pub(super) endpoint: EndpointId,
    pub(super) function: FunctionId,
    pub(super) how: CallOptions,
}

/// What a call asks for besides its function.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct CallOptions {
    /// Resources, walltime and place.
    pub shape: Shape,
    /// Attempts in all when infrastructure is lost under it; 1 is "at most once". The service chooses if `None`.
    pub max_attempts: Option<u32>,
    /// Place among one's own tasks at the endpoint: higher ones go first.
    pub priority: i8,
    /// Longest time from acceptance until the task begins to run.
    pub ttl: Option<Duration>,
    /// Longest time from acceptance until the task has ended; it is stopped after that.
    pub deadline: Option<Duration>,
    /// Whether the value of an equal call will do; as the function was registered if `None`.
    pub memoize: Option<bool>,
    /// What only the worker reads, such as `env` and `sandbox`.
    pub worker: BTreeMap<String, Value>,
}

impl CallOptions {
    /// The same in the words of the service. What has its neutral value is left out.
    pub(super) fn resources(&self) -> Resources {
        let Shape {
            milli_cores,
            memory_bytes,
            accelerators,
            nodes,
            ranks_per_node,
            walltime,
            environment,
            container,
            target,
        } = &self.shape;
        let neutral = Shape::default();
        let count = |milli: u32, neutral: u32| (milli != neutral).then(|| f64::from(milli) / 1000.0);
        Resources {
            walltime_seconds: walltime.map(|walltime| walltime.as_secs_f64()),
            max_attempts: self.max_attempts,
            priority: (self.priority != 0).then_some(self.priority),
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs_f64()),
            deadline_seconds: self.deadline.map(|deadline| deadline.as_secs_f64()),
            cores: count(*milli_cores, neutral.milli_cores),
            memory_bytes: (*memory_bytes != neutral.memory_bytes).then_some(*memory_bytes),
            accelerators: count(accelerators.milli_count, neutral.accelerators.milli_count),
            accelerator_kind: accelerators.kind.clone(),
            nodes: (*nodes != neutral.nodes).then_some(*nodes),
            ranks_per_node: (*ranks_per_node != neutral.ranks_per_node).then_some(*ranks_per_node),
            environment: environment.clone(),
            container: container.clone(),
            labels: match target {
                Target::Anywhere => None,
                Target::Labels(labels) => Some(labels.clone()),
            },
        }
    }
}

impl Call {
    /// A call that asks for nothing special.
    pub fn new(endpoint: EndpointId, function: FunctionId, arguments: Arguments) -> Self {
        Self { target: CallTarget { endpoint, function, how: CallOptions::default() }, arguments }
    }

    /// The same call with other options.
    #[must_use]
    pub fn with_options(mut self, options: CallOptions) -> Self {
        self.target.how = options;
        self
    }

    /// The same call in an environment of the endpoint.
    #[must_use]
    pub fn with_environment(mut self, name: impl Into<String>) -> Self {
        self.target.how.shape.environment = Some(name.into());
        self
    }

    /// The same call, stopped when it has run for this long.
    #[must_use]
    pub fn with_walltime(mut self, walltime: Duration) -> Self {
        self.target.how.shape.walltime = Some(walltime);
        self
    }

    /// The same call with this many attempts at most.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.target.how.max_attempts = Some(attempts);
        self
    }

    /// The same call, answered with the value of an equal one if there is one, or run in any case.
    #[must_use]
    pub fn with_memoize(mut self, memoize: bool) -> Self {
        self.target.how.memoize = Some(memoize);
        self
    }

    /// The same call before those of the caller's with a lower priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i8) -> Self {
        self.target.how.priority = priority;
        self
    }

    /// The same call, given up if it has not begun this long after it was accepted.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.target.how.ttl = Some(ttl);
        self
    }

    /// The same call, stopped if it has not ended this long after it was accepted.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.target.how.deadline = Some(deadline);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_take_the_form_of_their_kind() {
        let text = |arguments: Arguments| arguments.into_raw().get().to_owned();
        assert_eq!(text(Arguments::value(&(40, 2)).unwrap()), "[40,2]");
        assert_eq!(text(Arguments::value(&()).unwrap()), "null");
        let kwargs = BTreeMap::from([("k", 1)]);
        assert_eq!(
            text(Arguments::python(&("a", 1.5), &kwargs).unwrap()),
            r#"{"args":["a",1.5],"kwargs":{"k":1}}"#
        );
    }

    #[test]
    fn arguments_that_no_service_takes_are_refused_here() {
        let long = "x".repeat(limit::MAX_PAYLOAD_BYTES);
        assert_eq!(Arguments::value(&long).unwrap_err().kind(), ErrorKind::LimitExceeded);
        let map = BTreeMap::from([((1, 2), 3)]);
        assert_eq!(Arguments::value(&map).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn only_what_is_asked_for_is_said() {
        assert_eq!(CallOptions::default().resources(), Resources::default());
        let shape = Shape {
            milli_cores: 500,
            nodes: 2,
            target: Target::Labels(vec!["gpu".into()]),
            ..Shape::default()
        };
        let asked = CallOptions { shape, max_attempts: Some(1), ..CallOptions::default() }.resources();
        let expected = Resources {
            cores: Some(0.5),
            nodes: Some(2),
            labels: Some(vec!["gpu".into()]),
            max_attempts: Some(1),
            ..Resources::default()
        };
        assert_eq!(asked, expected);
    }
}
