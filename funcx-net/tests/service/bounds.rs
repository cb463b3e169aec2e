//! What is too large is refused, whichever way it comes.

use funcx_core::model::{Accelerators, Target, limit};
use funcx_net::service::Service;

use super::*;

#[tokio::test]
async fn what_travels_with_tasks_is_bounded() {
    let people = People::new().await;
    let fabric = Fabric::start(ServiceConfig::default(), memory(), &people).await;
    let endpoint = fabric.register_endpoint(&people.alice).await;
    let function = register(&fabric, &people.alice).await;
    let text = |length| "x".repeat(length);
    let shapes = |length: usize, labels: usize| {
        let kind = Some(text(length));
        [
            ("container", Shape { container: Some(text(length)), ..Shape::default() }),
            (
                "accelerator_kind",
                Shape { accelerators: Accelerators { milli_count: 1000, kind }, ..Shape::default() },
            ),
            ("labels", Shape { target: Target::Labels(vec![text(length)]), ..Shape::default() }),
            ("labels", Shape { target: Target::Labels(vec![text(1); labels]), ..Shape::default() }),
        ]
    };
    let try_submit = async |shape: Shape| {
        let mut submit = call(endpoint, function, None, &[1]);
        submit.batches[0].shape = shape;
        fabric.service.submit(&people.alice.principal, submit).await
    };
    for (_, shape) in shapes(limit::MAX_TEXT_BYTES, 64) {
        try_submit(shape).await.unwrap();
    }
    for (field, shape) in shapes(limit::MAX_TEXT_BYTES + 1, 65) {
        let refused = try_submit(shape).await.unwrap_err();
        assert_eq!(
            (refused.error().kind(), refused.error().is_retryable()),
            (ErrorKind::LimitExceeded, false)
        );
        let message = refused.to_string();
        assert!(message.contains(field), "{message}");
        assert!(message.contains("limit: 4096") || message.contains("limit: 64"), "{message}");
    }
    for name in ["", "m l", "é", &text(65)] {
        let environment = Some(name.to_owned());
        let refused = try_submit(Shape { environment, ..Shape::default() }).await.unwrap_err();
        assert_eq!(refused.error().kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("`environment` must be 1 to 64 letters"), "{refused}");
    }
    try_submit(Shape { environment: Some(text(64)), ..Shape::default() }).await.unwrap();
}

#[tokio::test]
async fn a_service_takes_no_larger_arguments_than_a_frame_holds() {
    let people = People::new().await;
    let config = ServiceConfig { payload_bytes: limit::MAX_PAYLOAD_BYTES + 1, ..ServiceConfig::default() };
    let refused = Service::start(config, memory(), Arc::clone(&people.authority) as _).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert!(refused.to_string().contains("payload_bytes"), "{refused}");
}
