//! The examples are in this folder, one file each; `examples/README.md` lists them.
