//! Suite for the `placement` contract.
