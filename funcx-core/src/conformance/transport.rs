//! Suite for the `transport` contract.
