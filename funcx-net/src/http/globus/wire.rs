//! JSON of the Globus Compute web service. Fields that we have no use for are left out and ignored in requests.

use std::collections::BTreeMap;

use funcx_core::model::{EndpointId, FunctionId, IdentityId, TaskGroupId, TaskId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /v3/functions`
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct NewFunctionV3 {
    pub(super) function_name: String,
    pub(super) function_code: String,
    /// Whether the code is one framed buffer; else it is Python source text.
    #[serde(default = "yes")]
    pub(super) serialized: bool,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) meta: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) public: Option<bool>,
    #[serde(default)]
    pub(super) group: Option<Uuid>,
}

fn yes() -> bool {
    true
}

/// `POST /v2/functions`
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct NewFunctionV2 {
    pub(super) function_name: String,
    pub(super) function_code: String,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) metadata: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) public: Option<bool>,
    #[serde(default)]
    pub(super) group: Option<Uuid>,
}

/// A function that was registered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FunctionUuid {
    #[schema(value_type = Uuid)]
    pub(super) function_uuid: FunctionId,
}

/// A function.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FunctionInfo {
    #[schema(value_type = Uuid)]
    pub(super) function_uuid: FunctionId,
    pub(super) function_name: String,
    pub(super) function_code: String,
    pub(super) description: Option<String>,
    #[schema(value_type = Object)]
    pub(super) metadata: Value,
}

/// `POST /v3/endpoints/{id}/submit`
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct SubmitV3 {
    /// Framed arguments of each call, by function.
    #[schema(value_type = BTreeMap<Uuid, Vec<String>>)]
    pub(super) tasks: BTreeMap<FunctionId, Vec<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    pub(super) task_group_id: Option<TaskGroupId>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) resource_specification: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) user_endpoint_config: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    pub(super) result_serializers: Option<Vec<String>>,
}

/// Tasks that were accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubmittedV3 {
    pub(super) request_id: Uuid,
    #[schema(value_type = Uuid)]
    pub(super) task_group_id: TaskGroupId,
    #[schema(value_type = Uuid)]
    pub(super) endpoint_id: EndpointId,
    #[schema(value_type = BTreeMap<Uuid, Vec<Uuid>>)]
    pub(super) tasks: BTreeMap<FunctionId, Vec<TaskId>>,
    /// Shown to the user as a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ha_warning: Option<String>,
}

/// A task.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskInfo {
    #[schema(value_type = Uuid)]
    pub(super) task_id: TaskId,
    /// `success` or `failed` once it has ended.
    pub(super) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exception: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) completion_t: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub(super) details: Option<serde_json::Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// `POST /v2/batch_status`
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct BatchStatus {
    #[schema(value_type = Vec<Uuid>)]
    pub(super) task_ids: Vec<TaskId>,
}

/// Tasks by id. Unknown ones are left out; so are those beyond what fits into one answer, which can be asked for again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResults {
    pub(super) response: &'static str,
    #[schema(value_type = BTreeMap<Uuid, TaskInfo>)]
    pub(super) results: BTreeMap<TaskId, TaskInfo>,
}

/// What goes on at an endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointStatus {
    pub(super) status: &'static str,
    pub(super) details: EndpointDetails,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointDetails {
    pub(super) total_workers: u32,
    pub(super) idle_workers: u64,
    pub(super) pending_tasks: u64,
    pub(super) outstanding_tasks: u64,
    pub(super) managers: u32,
}

/// An endpoint in a listing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndpointEntry {
    #[schema(value_type = Uuid)]
    pub(super) uuid: EndpointId,
    pub(super) name: String,
    pub(super) display_name: Option<String>,
    #[schema(value_type = Uuid)]
    pub(super) owner: IdentityId,
}

/// Which functions may run on an endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AllowedFunctions {
    #[schema(value_type = Uuid)]
    pub(super) endpoint_id: EndpointId,
    pub(super) restricted: bool,
    #[schema(value_type = Vec<Uuid>)]
    pub(super) functions: Vec<FunctionId>,
}

/// `POST /v3/endpoints`, `PUT /v3/endpoints/{id}`
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct NewEndpointV3 {
    pub(super) endpoint_name: String,
    #[serde(default)]
    pub(super) display_name: Option<String>,
    #[serde(default)]
    pub(super) multi_user: Option<bool>,
    #[serde(default)]
    pub(super) public: Option<bool>,
    #[serde(default)]
    pub(super) group: Option<Uuid>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(super) metadata: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Uuid>>)]
    pub(super) allowed_functions: Option<Vec<FunctionId>>,
}

/// An endpoint that was registered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RegisteredV3 {
    #[schema(value_type = Uuid)]
    pub(super) endpoint_id: EndpointId,
    pub(super) warnings: Vec<String>,
}

/// An endpoint that was locked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Locked {
    #[schema(value_type = Uuid)]
    pub(super) endpoint_id: EndpointId,
    pub(super) lock_expiration_timestamp: String,
}

/// A token for one resource server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenAnswer {
    pub(super) access_token: String,
    pub(super) scope: String,
    pub(super) expires_in: u64,
    pub(super) token_type: &'static str,
    pub(super) resource_server: &'static str,
    pub(super) state: &'static str,
    #[schema(no_recursion)]
    pub(super) other_tokens: Vec<TokenAnswer>,
}
