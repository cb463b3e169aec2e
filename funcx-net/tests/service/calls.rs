//! Functions, submissions and outcomes, as most tests want them.

use super::*;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn small_window(window_tasks: usize) -> ServiceConfig {
    ServiceConfig { window_tasks, ..ServiceConfig::default() }
}

pub(crate) fn memory() -> Arc<dyn TaskStore> {
    Arc::new(MemoryStore::new())
}

pub(crate) async fn register(fabric: &Fabric, owner: &Person) -> FunctionId {
    register_for(fabric, owner, Access::Private).await
}

pub(crate) async fn register_for(fabric: &Fabric, owner: &Person, access: Access) -> FunctionId {
    let new = NewFunction {
        function: Function::native("work"),
        name: "work".to_owned(),
        description: String::new(),
        access,
        memoize: funcx_core::model::Memoize::Never,
        metadata: "{}".to_owned(),
    };
    fabric.service.register_function(&owner.principal, new).await.unwrap().id
}

pub(crate) fn call(
    endpoint: EndpointId,
    function: FunctionId,
    group: Option<TaskGroupId>,
    arguments: &[u32],
) -> Submit {
    let arguments = arguments.iter().map(|number| Bytes::from(number.to_string())).collect();
    let (shape, limits) = (Shape::default(), TaskLimits::default());
    let batches =
        vec![Batch { function, shape, limits, options: Bytes::new(), map: false, memoize: None, arguments }];
    Submit { endpoint, group, trace: TraceContext::default(), batches }
}

pub(crate) async fn submit(fabric: &Fabric, owner: &Person, submit: Submit) -> Accepted {
    fabric.service.submit(&owner.principal, submit).await.unwrap()
}

/// Returns the arguments of the next task as its value.
pub(crate) async fn echo(bench: &mut Bench) -> (TaskId, String) {
    let task = bench.next().await;
    bench.finish(Outcome::returned(&task, task.payload.clone()));
    (task.id, String::from_utf8(task.payload.to_vec()).unwrap())
}

pub(crate) async fn outcome(fabric: &Fabric, owner: &Person, task: TaskId) -> Outcome {
    let view = fabric.service.wait(&owner.principal, task, PATIENCE).await.unwrap();
    assert_eq!(view.status, TaskStatus::Finished);
    view.record.outcome.as_ref().unwrap().outcome.clone()
}
