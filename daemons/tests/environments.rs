//! An endpoint with several environments: tasks run where they want to, workers are kept warm, and what is switched is
//! counted. Everything is real: the daemons' binaries, Python workers, the client over HTTP.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod fabric;

use std::collections::BTreeMap;

use fabric::{Fabric, until};
use funcx_core::model::{EndpointId, FunctionId, OutcomeKind};
use funcx_net::client::{Arguments, Call, Client, FunctionRegistration, TaskView};
use serde_json::{Value, json};

const COLOUR: &str = "\
def colour():
    import os, sys
    return [os.environ.get('COLOUR'), 'tabnanny' in sys.modules, os.getpid(), os.environ.get('FUNCX_ENVIRONMENTS', '')]
";

/// Keys of the endpoint's configuration.
const ENVIRONMENTS: &str = "
environment: {COLOUR: grey}
environments:
  red: {environment: {COLOUR: red}, preload: [tabnanny]}
  blue: {worker_init: 'COLOUR=blue; export COLOUR'}";

struct Site {
    fabric: Fabric,
    client: Client,
    endpoint: EndpointId,
    colour: FunctionId,
}

impl Site {
    async fn start(workers: u32, more: &str) -> Self {
        let engine = format!("max_workers_per_node: {workers}{ENVIRONMENTS}{more}");
        let fabric = Fabric::start_engine(&engine, workers, &[]).await;
        let client = fabric.client();
        let colour =
            client.register(&FunctionRegistration::python("colour", COLOUR)).await.unwrap().function_id;
        let endpoint = client.endpoint_named("faulty").await.unwrap().endpoint_id;
        Self { fabric, client, endpoint, colour }
    }

    async fn call(&self, function: FunctionId, environment: Option<&str>) -> TaskView {
        let arguments = Arguments::python(&[0; 0], &BTreeMap::<String, ()>::new()).unwrap();
        let mut call = Call::new(self.endpoint, function, arguments);
        if let Some(environment) = environment {
            call = call.with_environment(environment);
        }
        self.client.submit(call).await.unwrap().await.unwrap()
    }

    /// The colour of an environment, and the process that told it.
    async fn colour(&self, environment: Option<&str>) -> (Value, Value) {
        let value: Value = self.call(self.colour, environment).await.value().unwrap();
        let is_red = environment == Some("red");
        assert_eq!((&value[1], &value[3]), (&json!(is_red), &json!("")), "its modules, and no secrets");
        (value[0].clone(), value[2].clone())
    }

    /// Cold starts, switches, retired slots, and the slots of each environment.
    fn status(&self) -> (Value, Value) {
        let status = self.fabric.endpoint_status();
        (json!([status["cold_starts"], status["switches"], status["retired"]]), status["warm"].clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_run_in_their_environment_and_switches_are_counted() {
    let mut site = Site::start(2, "").await;
    let (grey, _) = site.colour(None).await;
    let (red, red_worker) = site.colour(Some("red")).await;
    assert_eq!((grey, red), (json!("grey"), json!("red")));
    // Both slots are taken: the one that has been idle for longest goes.
    assert_eq!(site.colour(Some("blue")).await.0, json!("blue"));
    // Those that are warm stay as they are.
    assert_eq!(site.colour(Some("red")).await, (json!("red"), red_worker));
    site.colour(Some("blue")).await;
    let expected = (json!([3, 1, 0]), json!({ "red": 1, "blue": 1 }));
    until("the endpoint knows what its manager did", || site.status() == expected).await;

    let shell = FunctionRegistration::shell("c", "echo $COLOUR");
    let shell = site.client.register(&shell).await.unwrap().function_id;
    let task = site.call(shell, Some("blue")).await;
    let value: Value = task.value().unwrap();
    assert_eq!(value["stdout"], "blue\n", "{value}");

    let lost = site.call(site.colour, Some("green")).await;
    assert_eq!(lost.outcome, Some(OutcomeKind::Raised));
    let failure = format!("{:?}", lost.failure);
    assert!(failure.contains("there is no environment `green` here"), "{failure}");
    assert!(failure.contains("run in `blue`, `red` and in the default one"), "{failure}");
    assert_eq!(site.status(), expected, "that started nothing");
    site.fabric.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_is_retired() {
    let site = Site::start(2, "\nkeep_alive: 0.05").await;
    for round in 1..=2 {
        assert_eq!(site.colour(Some("red")).await.0, json!("red"));
        let expected = (json!([round, 0, round]), json!({}));
        until("the slot is given up", || site.status() == expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_does_not_start_says_why_and_harms_no_other() {
    let site = Site::start(2, "\n  broken: {python: /no/such/python}").await;
    let lost = site.call(site.colour, Some("broken")).await;
    assert_eq!(lost.outcome, Some(OutcomeKind::Lost));
    let failure = format!("{:?}", lost.failure);
    assert!(failure.contains("/no/such/python"), "{failure}");
    assert_eq!(site.colour(Some("red")).await.0, json!("red"));
}
