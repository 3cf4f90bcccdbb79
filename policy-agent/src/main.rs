//! The `policy-agent` binary.
fn main() {}
