//! The service without HTTP: what it promises about accepted tasks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "service/access.rs"]
mod access;
#[path = "service/bounds.rs"]
mod bounds;
#[path = "service/calls.rs"]
mod calls;
#[path = "service/cancel.rs"]
mod cancel;
#[path = "service/durable.rs"]
mod durable;
#[path = "service/endpoints.rs"]
mod endpoints;
#[path = "service/fabric.rs"]
mod fabric;
#[path = "service/follow.rs"]
mod follow;
#[path = "service/life.rs"]
mod life;
#[path = "service/memo.rs"]
mod memo;
#[path = "service/queue.rs"]
mod queue;
#[path = "service/queues.rs"]
mod queues;
#[path = "service/stores.rs"]
mod stores;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use calls::*;
use fabric::{Bench, Fabric, People, Person};
use funcx_core::ErrorKind;
use funcx_core::conformance::task_store::MemoryStore;
use funcx_core::contract::{Access, Action, TaskStore};
use funcx_core::model::{
    EndpointId, Failure, Function, FunctionId, Outcome, OutcomeKind, Shape, TaskGroupId, TaskId, TaskLimits,
    Timestamp, TraceContext,
};
use funcx_net::driver::NodeNotice;
use funcx_net::service::{
    Accepted, Batch, CancelEffect, CancelTarget, FollowEvent, NewEndpoint, NewFunction, ServiceConfig,
    Submit, TaskStatus,
};
use stores::Gated;
