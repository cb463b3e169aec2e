//! funcx functions behind a stack of `tower` layers inside an `axum` service:
//! `cargo run --example tower_middleware`.
//!
//! From the outside in: remembered results, a time limit, a limit on calls at a time, and another attempt when
//! infrastructure is lost. Timeout and concurrency limit are `tower`'s own; they work on tasks as on anything else.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::Path, extract::State, http::StatusCode, routing::post};
use funcx_core::inproc::NativeFunctions;
use funcx_core::layer::{MemoizeLayer, RetryLost};
use funcx_core::model::{Function, IdentityId, Outcome, OutcomeKind, Task, TaskId, TaskSpec};
use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

type Stack = BoxCloneSyncService<Task, Outcome, BoxError>;

fn stack() -> Result<Stack, funcx_core::Error> {
    let mut functions = NativeFunctions::new();
    functions.register("mean", |numbers: Vec<f64>| numbers.iter().sum::<f64>() / numbers.len() as f64)?;
    functions.register_async("slow", |seconds: f64| async move {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        seconds
    })?;
    Ok(BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(MemoizeLayer::with_capacity_bytes(64 << 20))
            .timeout(Duration::from_millis(200))
            .concurrency_limit(64)
            .retry(RetryLost)
            .service(functions.into_service()),
    ))
}

async fn call(
    State(stack): State<Stack>,
    Path(name): Path<String>,
    arguments: Bytes,
) -> (StatusCode, Vec<u8>) {
    let spec = TaskSpec::new(Arc::new(Function::native(name)), IdentityId::from_u128(1));
    match stack.oneshot(Task::new(TaskId::from_u128(1), Arc::new(spec), arguments)).await {
        Ok(outcome) if outcome.kind == OutcomeKind::Returned => (StatusCode::OK, outcome.payload.to_vec()),
        Ok(outcome) => (StatusCode::UNPROCESSABLE_ENTITY, outcome.payload.to_vec()),
        Err(error) => (StatusCode::GATEWAY_TIMEOUT, error.to_string().into_bytes()),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/call/{name}", post(call)).with_state(stack()?);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let client = reqwest::Client::builder().no_proxy().build()?;
    for (name, arguments, status, answer) in [
        ("mean", "[1, 2, 6]", 200, "3.0"),
        ("mean", "[1, 2, 6]", 200, "3.0"),
        ("mean", "true", 422, "InvalidArguments"),
        ("median", "[1]", 422, "UnknownNativeFunction"),
        ("slow", "30.0", 504, "timed out"),
    ] {
        let response = client.post(format!("http://{address}/call/{name}")).body(arguments).send().await?;
        let (seen, text) = (response.status().as_u16(), response.text().await?);
        println!("{name}({arguments}): {seen} {text}");
        assert!(seen == status && text.contains(answer), "expected {status} with {answer}");
    }
    server.abort();
    Ok(())
}
