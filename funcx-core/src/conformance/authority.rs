//! Suite for the `authority` contract.
