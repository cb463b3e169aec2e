//! Suite for the `provider` contract.
