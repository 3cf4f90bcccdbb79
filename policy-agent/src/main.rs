//! The `policy-agent` binary: everything is in the library. Called by the name of
//! the CNI plugin, it is the plugin.

use std::process::ExitCode;

fn main() -> ExitCode {
    if policy_agent::cni::plugin::is_called() {
        return policy_agent::cni::plugin::main();
    }
    policy_agent::cli::main()
}
