//! Suite for the `task_store` contract.
