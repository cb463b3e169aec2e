//! Which tasks are meant.

use clap::Args;
use funcx_core::model::{TaskGroupId, TaskId};

/// Tasks by their ids, or all of a group.
#[derive(Debug, Args)]
pub struct Which {
    /// Ids of the tasks
    #[arg(required_unless_present = "group", conflicts_with = "group")]
    pub ids: Vec<TaskId>,
    /// All of this task group
    #[arg(long, value_name = "ID")]
    pub group: Option<TaskGroupId>,
}
