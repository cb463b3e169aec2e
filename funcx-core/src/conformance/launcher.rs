//! Suite for the `launcher` contract.
