//! The OpenAPI description against what the routes do.

use serde_json::Value;

use crate::site::Site;

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// One operation of the description.
struct Operation {
    method: String,
    path: String,
    described: Value,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// The description, and all operations in it.
async fn description(site: &Site) -> (Value, Vec<Operation>) {
    let description = site.ask_as(None, "GET", "/openapi.json", None).await.body;
    let operations = description["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(|(method, described)| Operation {
            method: method.to_uppercase(),
            path: path.clone(),
            described: described.clone(),
        })
    });
    let operations: Vec<_> = operations.collect();
    assert!(operations.len() > 30, "{}", operations.len());
    (description, operations)
}

/// The content says what form it has, and a schema that it refers to is there.
#[track_caller]
fn has_schema(description: &Value, content: &Value, name: &str) {
    let kinds = content.as_object().filter(|kinds| !kinds.is_empty());
    for (kind, content) in kinds.unwrap_or_else(|| panic!("{name} has no content")) {
        let schema = content["schema"].as_object().unwrap_or_else(|| panic!("{name} {kind} has no schema"));
        if let Some(reference) = schema.get("$ref") {
            let place = reference.as_str().unwrap().trim_start_matches('#');
            assert!(description.pointer(place).is_some(), "{name}: {place} is not there");
        }
    }
}

#[tokio::test]
async fn every_body_that_a_route_takes_is_described() {
    let site = Site::new().await;
    let (description, operations) = description(&site).await;
    for operation in &operations {
        let name = operation.name();
        let body = &operation.described["requestBody"];
        // What these do is all in their path.
        let bare = ["/v3/endpoints/{id}/lock", "/v2/oauth2/token/revoke"].contains(&operation.path.as_str());
        if matches!(operation.method.as_str(), "POST" | "PUT") && !bare {
            has_schema(&description, &body["content"], &name);
            assert_eq!(body["required"], true, "{name}");
        } else {
            assert!(body.is_null(), "{name} takes no body");
        }
    }
}

#[tokio::test]
async fn every_answer_is_described() {
    let site = Site::new().await;
    let (description, operations) = description(&site).await;
    for operation in &operations {
        let name = operation.name();
        let responses = operation.described["responses"].as_object().unwrap();
        for (status, response) in responses {
            // These have no body.
            if status != "204" && status != "101" {
                has_schema(&description, &response["content"], &format!("{name} {status}"));
            }
        }
        let succeeds = responses.keys().any(|status| status.starts_with('2') || status == "101");
        assert_eq!(succeeds, operation.path != "/v2/get_amqp_result_connection_url", "{name}");
    }
}

#[tokio::test]
async fn routes_that_want_to_know_who_asks_say_so_and_the_others_are_known() {
    let site = Site::new().await;
    let (_, operations) = description(&site).await;
    let mut open = Vec::new();
    for operation in &operations {
        let target = operation.path.replace("{id}", NOBODY);
        let answer = site.ask_as(None, &operation.method, &target, None).await;
        let described = operation.described["responses"].get("401").is_some();
        assert_eq!(answer.status == 401, described, "{}: {}", operation.name(), answer.status);
        if answer.status == 401 {
            answer.is_refused(401, "USER_UNAUTHENTICATED", &[]);
        } else {
            open.push(operation.name());
        }
    }
    // The link asks in its first message.
    assert_eq!(
        open,
        [
            "GET /healthz",
            "GET /metrics",
            "GET /readyz",
            "GET /v1/link",
            "POST /v2/oauth2/token/revoke",
            "GET /v2/version"
        ]
    );
}

#[tokio::test]
async fn no_operation_takes_a_token_that_has_expired() {
    use funcx_core::contract::Scope;
    use funcx_core::model::Timestamp;

    let site = Site::new().await;
    let (_, operations) = description(&site).await;
    let (authority, identity) = (&site.people.authority, site.people.alice.principal.identity);
    let scopes = [Scope::Compute, Scope::Endpoint];
    let expired = authority.create_token(identity, &scopes, Some(Timestamp::from_nanos(1)), "old").unwrap();
    let wanting = operations.iter().filter(|operation| operation.described["responses"].get("401").is_some());
    for operation in wanting {
        let target = operation.path.replace("{id}", NOBODY);
        let answer = site.ask_as(Some(&expired), &operation.method, &target, None).await;
        assert_eq!(answer.status, 401, "{}: {}", operation.name(), answer.body);
    }
}
