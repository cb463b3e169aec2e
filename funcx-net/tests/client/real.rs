//! The client against a real service, whose endpoint's work is done by the test.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::TaskStore;
use funcx_core::model::{EndpointId, Failure, FunctionId, Outcome, OutcomeKind, Shape, Task, TaskId, limit};
use funcx_net::client::{
    Arguments, Call, CallOptions, Chunk, Client, ErrorKind, FunctionRegistration, MapOptions, RetryPolicy,
    Token,
};
use funcx_net::http;
use funcx_net::service::ServiceConfig;
use futures::{StreamExt, future::join_all};
use serde_json::value::RawValue;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tower::{Service, ServiceExt};

use crate::fabric::{Bench, Fabric, People, Person};

/// A service with HTTP on a real socket.
struct Site {
    fabric: Fabric,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Site {
    async fn start(people: &People, store: Arc<dyn TaskStore>) -> Self {
        let fabric = Fabric::start(ServiceConfig::default(), store, people).await;
        Self::serve(fabric, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    async fn serve(fabric: Fabric, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let router = http::router(Arc::clone(&fabric.service));
        let serving = tokio::spawn(http::serve(listener, router, async { drop(stopped.await) }));
        Self { fabric, address, stop, serving }
    }

    fn client(&self, person: &Person) -> Client {
        Client::builder()
            .service(format!("http://{}", self.address))
            .token(Token::new(&person.token).unwrap())
            .retry(RetryPolicy {
                max_attempts: 100,
                max_pause: Duration::from_millis(50),
                ..RetryPolicy::default()
            })
            .build()
            .unwrap()
    }

    /// Ends the service and starts it again, on the same store and address.
    async fn restart(self, people: &People, store: Arc<dyn TaskStore>) -> Self {
        let transports = self.fabric.transports.clone();
        self.stop.send(()).unwrap();
        self.fabric.stop().await;
        self.serving.await.unwrap().unwrap();
        let fabric = Fabric::start_at(ServiceConfig::default(), store, people, transports).await;
        Self::serve(fabric, self.address).await
    }
}

/// A service, Alice's endpoint with this many slots, and a function of hers.
async fn scene(people: &People, slots: u32) -> (Site, Client, Bench, EndpointId, FunctionId) {
    let site = Site::start(people, Arc::new(MemoryStore::new())).await;
    let endpoint = site.fabric.register_endpoint(&people.alice).await;
    let bench = site.fabric.connect(endpoint, &people.alice.token, slots);
    let client = site.client(&people.alice);
    let function = client.register(&FunctionRegistration::native("work")).await.unwrap().function_id;
    (site, client, bench, endpoint, function)
}

fn call(endpoint: EndpointId, function: FunctionId, argument: u32) -> Call {
    Call::new(endpoint, function, Arguments::value(&argument).unwrap())
}

/// Ends as many tasks as told; each returns its arguments.
async fn echo(bench: &mut Bench, tasks: usize) {
    for _ in 0..tasks {
        let task = bench.next().await;
        bench.finish(Outcome::returned(&task, task.payload.clone()));
    }
}

#[tokio::test]
async fn calls_return_what_the_function_returns() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 4).await;
    let calls = 300;
    let mut handles = Vec::new();
    for argument in 0..calls {
        handles.push(client.submit(call(endpoint, function, argument)).await.unwrap());
    }
    echo(&mut bench, calls as usize).await;
    let tasks = join_all(handles).await;
    let values: Vec<u32> = tasks.into_iter().map(|task| task.unwrap().value().unwrap()).collect();
    assert_eq!(values, (0..calls).collect::<Vec<_>>());
}

/// What a worker gives for a chunk of numbers: each twice, but sevens fail.
fn doubled(task: &Task) -> Outcome {
    assert!(task.spec.map);
    let numbers: Vec<u32> = serde_json::from_slice(&task.payload).unwrap();
    let seven = |index: usize| (index.to_string(), Failure::new("Seven", "bad luck"));
    let failures: BTreeMap<_, _> = numbers
        .iter()
        .enumerate()
        .filter(|(_, number)| **number == 7)
        .map(|(index, _)| seven(index))
        .collect();
    let values: Vec<_> = numbers.iter().map(|number| (*number != 7).then_some(number * 2)).collect();
    Outcome::returned(task, serde_json::json!({ "values": values, "failures": failures }).to_string())
}

fn numbers(count: u32) -> Vec<Arguments> {
    (0..count).map(|number| Arguments::value(&number).unwrap()).collect()
}

#[tokio::test]
async fn a_map_gives_the_result_of_each_call_in_order() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 4).await;
    for (chunk, sizes) in
        [(Chunk::Auto, vec![1; 10]), (Chunk::Fixed(4), vec![4, 4, 2]), (Chunk::Fixed(100), vec![10])]
    {
        let options = MapOptions { chunk, ..MapOptions::default() };
        let run = client.map(endpoint, function, numbers(10), options).await.unwrap();
        assert_eq!((run.tasks_left(), run.calls_left()), (sizes.len(), 10));
        let work = async {
            let mut waiting = Vec::new();
            for left in (0..sizes.len()).rev() {
                waiting.push(bench.next().await);
                // As far as there are slots, the last comes first.
                if waiting.len() == 4 || left == 0 {
                    waiting.drain(..).rev().for_each(|task| bench.finish(doubled(&task)));
                }
            }
        };
        let (results, ()) = tokio::join!(run.results().collect::<Vec<_>>(), work);
        for (number, result) in results.into_iter().enumerate() {
            match result.unwrap() {
                Ok(value) => assert_eq!(value.get(), (number * 2).to_string()),
                Err(error) => {
                    assert_eq!((number, error.outcome), (7, OutcomeKind::Raised));
                    assert!(error.to_string().contains("bad luck"), "{error}");
                }
            }
        }
    }
    let mut nothing = client.map(endpoint, function, Vec::new(), MapOptions::default()).await.unwrap();
    assert!(nothing.next_chunk().await.is_none());
}

#[tokio::test]
async fn a_hundred_thousand_calls_fit_into_requests_without_anybody_noticing() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 4).await;
    let count = 100_000;
    // Each a hundred bytes, so that there are several requests.
    let arguments =
        (0..count).map(|number| Arguments::raw(RawValue::from_string(format!("{number:>100}")).unwrap()));
    let arguments = arguments.map(Result::unwrap).collect();
    let options = MapOptions { chunk: Chunk::Fixed(1000), ..MapOptions::default() };
    let run = client.map(endpoint, function, arguments, options).await.unwrap();
    let tasks = run.tasks_left();
    let work = async {
        for _ in 0..tasks {
            let task = bench.next().await;
            bench.finish(doubled(&task));
        }
    };
    let (results, ()) = tokio::join!(run.results().collect::<Vec<_>>(), work);
    assert_eq!((tasks, results.len()), (100, count));
    for (number, result) in results.into_iter().enumerate().filter(|(number, _)| *number != 7) {
        assert_eq!(result.unwrap().unwrap().get(), (number * 2).to_string());
    }
}

#[tokio::test]
async fn a_chunk_that_has_no_value_fails_each_of_its_calls() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 4).await;
    let options = MapOptions { chunk: Chunk::Fixed(2), ..MapOptions::default() };
    let mut run = client.map(endpoint, function, numbers(6), options).await.unwrap();
    let tasks = [bench.next().await, bench.next().await, bench.next().await];
    bench.finish(Outcome::failed(
        &tasks[0],
        OutcomeKind::Raised,
        &Failure::new("NoSuchFunction", "not here"),
    ));
    bench.finish(Outcome::returned(&tasks[1], r#"{"values": [1], "failures": {}}"#));
    for (first, code) in [(0, "NoSuchFunction"), (2, "MalformedMapValue")] {
        let chunk = run.next_chunk().await.unwrap().unwrap();
        assert_eq!((chunk.first, chunk.results.len()), (first, 2));
        for result in chunk.results {
            let error = result.unwrap_err();
            assert_eq!((error.outcome, error.failure.code.as_str()), (OutcomeKind::Raised, code));
        }
    }
    run.cancel().await.unwrap();
    let cancelled = Failure::new("Cancelled", "as you wished");
    bench.finish(Outcome::failed(&tasks[2], OutcomeKind::Cancelled, &cancelled));
    let chunk = run.next_chunk().await.unwrap().unwrap();
    assert!(
        chunk.results.iter().all(|result| result.as_ref().unwrap_err().outcome == OutcomeKind::Cancelled)
    );
    assert!(run.next_chunk().await.is_none());
}

#[tokio::test]
async fn chunks_that_no_service_takes_are_refused_with_a_way_out() {
    let people = People::new().await;
    let (_site, client, _bench, endpoint, function) = scene(&people, 4).await;
    let shell = client.register(&FunctionRegistration::shell("s", "true")).await.unwrap().function_id;
    for (function, calls, kind, words) in [
        (function, 0, ErrorKind::InvalidInput, "1 to 65536"),
        (function, limit::MAX_CHUNK_CALLS + 1, ErrorKind::InvalidInput, "1 to 65536"),
        (shell, 2, ErrorKind::InvalidInput, "a command cannot be mapped"),
    ] {
        let options = MapOptions { chunk: Chunk::Fixed(calls), ..MapOptions::default() };
        let arguments = vec![Arguments::raw(RawValue::from_string("{}".to_owned()).unwrap()).unwrap(); 3];
        let error = client.map(endpoint, function, arguments, options).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn the_ways_in_which_a_task_ends_are_told_apart() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 4).await;
    let mut service = client.clone().into_service();

    let nothing = service.ready().await.unwrap().call(call(endpoint, function, 0));
    let (nothing, ()) = tokio::join!(nothing, async {
        let task = bench.next().await;
        bench.finish(Outcome::returned(&task, "null"));
    });
    assert_eq!(nothing.unwrap().value::<Option<u32>>().unwrap(), None);

    let raised = service.ready().await.unwrap().call(call(endpoint, function, 1));
    let (raised, ()) = tokio::join!(raised, async {
        let task = bench.next().await;
        let failure = Failure { traceback: "line 7".to_owned(), ..Failure::new("ValueError", "oh dear") };
        bench.finish(Outcome::failed(&task, OutcomeKind::Raised, &failure));
    });
    let raised = raised.unwrap();
    assert_eq!(raised.outcome, Some(OutcomeKind::Raised));
    let failure = raised.failure.as_ref().unwrap();
    assert_eq!((failure.code.as_str(), failure.traceback.as_str()), ("ValueError", "line 7"));
    let error = raised.value::<u32>().unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("oh dear"), "{error}");

    let mut cancelled = client.submit(call(endpoint, function, 2)).await.unwrap();
    let task = bench.next().await;
    cancelled.cancel().await.unwrap();
    assert_eq!(bench.cancelled.recv().await.unwrap(), task.attempt_id());
    bench.finish(Outcome::failed(&task, OutcomeKind::Cancelled, &Failure::new("Cancelled", "by request")));
    assert_eq!(cancelled.await.unwrap().outcome, Some(OutcomeKind::Cancelled));
}

#[tokio::test]
async fn what_a_call_asks_for_reaches_the_endpoint() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 1).await;
    let worker = BTreeMap::from([("env".to_owned(), serde_json::json!({ "A": "b" }))]);
    let shape = Shape { milli_cores: 500, walltime: Some(Duration::from_secs(90)), ..Shape::default() };
    let options =
        CallOptions { shape: shape.clone(), max_attempts: Some(1), worker, ..CallOptions::default() };
    let _handle = client.submit(call(endpoint, function, 0).with_options(options)).await.unwrap();
    let spec = bench.next().await.spec;
    assert_eq!((&spec.shape, spec.limits.max_attempts), (&shape, 1));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&spec.options).unwrap()["env"]["A"], "b");
}

#[tokio::test]
async fn a_service_that_is_started_anew_goes_unnoticed() {
    let people = People::new().await;
    let store: Arc<dyn TaskStore> = Arc::new(MemoryStore::new());
    let site = Site::start(&people, Arc::clone(&store)).await;
    let endpoint = site.fabric.register_endpoint(&people.alice).await;
    let mut bench = site.fabric.connect(endpoint, &people.alice.token, 1);
    let client = site.client(&people.alice);
    let function = client.register(&FunctionRegistration::native("work")).await.unwrap().function_id;

    let first = client.submit(call(endpoint, function, 1)).await.unwrap();
    let mut second = client.submit(call(endpoint, function, 2)).await.unwrap();
    echo(&mut bench, 1).await;
    assert_eq!(first.await.unwrap().value::<u32>().unwrap(), 1);
    second.id().await.unwrap();
    let site = site.restart(&people, store).await;
    let third = client.submit(call(endpoint, function, 3)).await.unwrap();
    echo(&mut bench, 2).await;
    assert_eq!(second.await.unwrap().value::<u32>().unwrap(), 2);
    assert_eq!(third.await.unwrap().value::<u32>().unwrap(), 3);
    drop(site);
}

#[tokio::test]
async fn bulk_goes_in_at_once_and_streams_back() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 8).await;
    let arguments = (0..200).map(|argument| Arguments::value(&argument).unwrap()).collect();
    let submitted = client.submit_many(endpoint, function, CallOptions::default(), arguments).await.unwrap();
    assert_eq!(submitted.tasks.len(), 200);
    let mut outcomes = client.outcomes(submitted.group, None);
    echo(&mut bench, 100).await;
    let mut values = BTreeMap::new();
    for _ in 0..100 {
        let task = outcomes.next().await.unwrap().unwrap();
        values.insert(task.task_id, task.value::<u32>().unwrap());
    }
    // Somebody else goes on where this stream stands.
    let cursor = outcomes.cursor().map(str::to_owned);
    drop(outcomes);
    let mut outcomes = client.outcomes(submitted.group, cursor.as_deref());
    echo(&mut bench, 100).await;
    while values.len() < 200 {
        let task = outcomes.next().await.unwrap().unwrap();
        assert_eq!(values.insert(task.task_id, task.value().unwrap()), None, "each is told once");
    }
    let expected: BTreeMap<TaskId, u32> = submitted.tasks.iter().copied().zip(0..).collect();
    assert_eq!(values, expected);
}

#[tokio::test]
async fn everything_can_be_listed_and_found() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 1).await;
    let python = FunctionRegistration {
        description: Some("adds".to_owned()),
        public: true,
        ..FunctionRegistration::python("add", "def add(a, b): return a + b")
    };
    let python = client.register(&python).await.unwrap().function_id;
    let found = client.function(python).await.unwrap();
    assert_eq!((found.name.as_str(), found.entry.as_str(), found.public), ("add", "add", true));
    assert_eq!(found.code.as_deref(), Some("def add(a, b): return a + b"));

    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = client.functions(after.as_deref(), 1).await.unwrap();
        listed.extend(page.functions.into_iter().map(|function| function.function_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    listed.sort_unstable();
    let mut expected = vec![function, python];
    expected.sort_unstable();
    assert_eq!(listed, expected);

    assert_eq!(client.endpoint_named("bench").await.unwrap().endpoint_id, endpoint);
    assert_eq!(client.endpoint_named("desk").await.unwrap_err().kind(), ErrorKind::NotFound);

    let mut handles = Vec::new();
    for argument in 0..3 {
        handles.push(client.submit(call(endpoint, function, argument)).await.unwrap());
    }
    let mut ids = Vec::new();
    for handle in &mut handles {
        ids.push(handle.id().await.unwrap());
    }
    let first = client.tasks(Some(client.task_group()), None, 2).await.unwrap();
    let rest =
        client.tasks(Some(client.task_group()), first.next.as_deref(), limit::MAX_PAGE_TASKS).await.unwrap();
    let listed: Vec<_> = first.tasks.iter().chain(&rest.tasks).map(|task| task.task_id).collect();
    assert_eq!((listed, rest.next), (ids.clone(), None));

    let waiting = tokio::spawn({
        let (client, id) = (client.clone(), ids[0]);
        async move { client.wait(id).await }
    });
    echo(&mut bench, 1).await;
    assert_eq!(waiting.await.unwrap().unwrap().value::<u32>().unwrap(), 0);
    assert_eq!(client.task(ids[0]).await.unwrap().outcome, Some(OutcomeKind::Returned));
}

#[tokio::test]
async fn others_see_nothing_and_strangers_do_not_get_in() {
    let people = People::new().await;
    let (site, client, _bench, endpoint, function) = scene(&people, 1).await;
    let task = client.submit(call(endpoint, function, 0)).await.unwrap().id().await.unwrap();
    let bob = site.client(&people.bob);
    for error in [
        bob.task(task).await.unwrap_err(),
        bob.function(function).await.unwrap_err(),
        bob.submit(call(endpoint, function, 0)).await.unwrap().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    }
    let stranger = Client::builder().service(client.service()).build().unwrap();
    assert_eq!(stranger.endpoints().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let missing = client.function(FunctionId::from_u128(7)).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn handles_that_are_dropped_stop_their_tasks_if_they_were_told_to() {
    let people = People::new().await;
    let (_site, client, mut bench, endpoint, function) = scene(&people, 4).await;
    let end = |bench: &Bench, task: &funcx_core::model::Task| {
        bench.finish(Outcome::failed(task, OutcomeKind::Cancelled, &Failure::new("Cancelled", "stopped")));
    };
    let mut accepted = client.submit(call(endpoint, function, 0)).await.unwrap().cancel_on_drop();
    let first = accepted.id().await.unwrap();
    let task = bench.next().await;
    drop(accepted);
    assert_eq!(bench.cancelled.recv().await, Some(task.attempt_id()));
    end(&bench, &task);
    assert_eq!(client.wait(first).await.unwrap().outcome, Some(OutcomeKind::Cancelled));
    // This one is dropped before anybody knows its id.
    drop(client.submit(call(endpoint, function, 1)).await.unwrap().cancel_on_drop());
    let task = bench.next().await;
    assert_eq!(bench.cancelled.recv().await, Some(task.attempt_id()));
    end(&bench, &task);
    assert_eq!(client.wait(task.id).await.unwrap().outcome, Some(OutcomeKind::Cancelled));
    // Neither a handle that has told its outcome nor a plain one asks for anything.
    drop(client.submit(call(endpoint, function, 3)).await.unwrap());
    let told = client.submit(call(endpoint, function, 4)).await.unwrap().cancel_on_drop();
    echo(&mut bench, 2).await;
    assert_eq!(told.await.unwrap().value::<u32>().unwrap(), 4);
    let mut service = client.into_service().cancel_on_drop();
    let mut dropped = Box::pin(service.ready().await.unwrap().call(call(endpoint, function, 5)));
    let task = tokio::select! {
        ended = &mut dropped => panic!("{ended:?}"),
        task = bench.next() => task,
    };
    drop(dropped);
    assert_eq!(bench.cancelled.recv().await, Some(task.attempt_id()), "and nobody else was stopped");
}
