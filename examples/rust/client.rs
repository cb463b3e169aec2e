//! A program that uses a running fabric from outside: `cargo run -p funcx-examples --example client`.
//!
//! It wants `funcx up` (or any service) and in its environment `FUNCX_SERVICE`, `FUNCX_TOKEN` and `FUNCX_ENDPOINT_ID`, as
//! `funcx up` prints them.

use std::{collections::BTreeMap, env};

use funcx_net::client::{Arguments, Call, CallOptions, Client, FunctionRegistration, Token};
use futures::StreamExt;

const SQUARE: &str = "def square(n):\n    return n * n\n";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str| env::var(name).map_err(|_| format!("set {name}: `funcx up` prints it"));
    let endpoint = variable("FUNCX_ENDPOINT_ID")?.parse()?;
    let client = Client::builder()
        .service(variable("FUNCX_SERVICE")?)
        .token(Token::new(&variable("FUNCX_TOKEN")?)?)
        .build()?;

    // One call.
    let square = client.register(&FunctionRegistration::python("square", SQUARE)).await?.function_id;
    let no_kwargs = BTreeMap::<String, ()>::new();
    let task =
        client.submit(Call::new(endpoint, square, Arguments::python(&[12], &no_kwargs)?)).await?.await?;
    println!("12 squared is {}", task.value::<u64>()?);

    // A thousand at once, their outcomes as they come.
    let arguments = (1..=1000).map(|n| Arguments::python(&[n], &no_kwargs)).collect::<Result<Vec<_>, _>>()?;
    let submitted = client.submit_many(endpoint, square, CallOptions::default(), arguments).await?;
    let mut outcomes = client.outcomes(submitted.group, None).take(submitted.tasks.len());
    let mut sum = 0;
    while let Some(task) = outcomes.next().await {
        sum += task?.value::<u64>()?;
    }
    println!("the squares of 1 to 1000 sum up to {sum}");
    assert_eq!(sum, 333_833_500);
    Ok(())
}
