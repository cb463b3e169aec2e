//! Suite for the `executor` contract.
