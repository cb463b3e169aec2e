//! Native functions that every worker has, to try a fabric out and to measure it.

use funcx_core::Result;
use funcx_core::inproc::NativeFunctions;

/// Adds the demonstration functions to those of a binary.
///
/// | Name | Argument | Value |
/// | --- | --- | --- |
/// | `funcx.noop` | anything | `null` |
/// | `funcx.echo` | any bytes | the same bytes |
/// | `funcx.sum` | a list of numbers | their sum |
/// | `funcx.pi` | how many points to draw | an estimate of π from that many pseudo-random points |
///
/// # Errors
/// `Conflict` if the binary has a function with one of these names.
pub fn register_demonstration(functions: &mut NativeFunctions) -> Result<()> {
    functions.register_raw("funcx.noop", |_| Ok(bytes::Bytes::from_static(b"null")))?;
    functions.register_raw("funcx.echo", |payload| Ok(payload.clone()))?;
    functions.register("funcx.sum", |numbers: Vec<f64>| numbers.iter().sum::<f64>())?;
    functions.register("funcx.pi", estimate_pi)?;
    Ok(())
}

/// Draws `points` points of a square and counts those in the circle: work that keeps one core busy.
fn estimate_pi(points: u64) -> f64 {
    // SplitMix64, Steele, Lea and Flood 2014: as good as this needs, and the same on every machine.
    let mut state = points;
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let inside = (0..points)
        .filter(|_| {
            let (x, y) = (uniform(), uniform());
            x * x + y * y <= 1.0
        })
        .count();
    4.0 * inside as f64 / points.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use funcx_core::model::{Function, IdentityId, Task, TaskId, TaskSpec};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn the_demonstration_functions_do_what_they_say() {
        let mut functions = NativeFunctions::new();
        register_demonstration(&mut functions).unwrap();
        let service = functions.into_service();
        for (name, argument, value) in [
            ("funcx.noop", "[1]", "null"),
            ("funcx.echo", "not json", "not json"),
            ("funcx.sum", "[1, 2, 3.5]", "6.5"),
            ("funcx.pi", "0", "0.0"),
        ] {
            let spec = Arc::new(TaskSpec::new(Arc::new(Function::native(name)), IdentityId::from_u128(1)));
            let outcome =
                service.clone().oneshot(Task::new(TaskId::from_u128(1), spec, argument)).await.unwrap();
            assert_eq!(outcome.payload, value, "{name}");
        }
        assert!((estimate_pi(100_000) - std::f64::consts::PI).abs() < 0.05);
    }
}
