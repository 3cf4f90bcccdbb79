//! The `policy-agent` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    policy_agent::cli::main()
}
