//! Measures the packet programs and the control plane: `cargo xtask bench`, which builds all that
//! this needs. See `policy_tests::bench`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use policy_tests::bench::{Options, run};

const USAGE: &str = "usage: bench [--quick] [--json] [--filter TEXT] [--packets | --control]
  --quick    fewer rounds: a first look
  --json     one JSON document on standard output
  --filter   only rows of packets whose name contains TEXT, such as \"IPv4 ingress established\";
             flood, round-trips: that part alone
  --packets  only the packet programs (needs root)
  --control  only the control plane";

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = true,
            "--filter" => options.filter = words.next().context("--filter wants a text")?,
            "--packets" => options.no_control = true,
            "--control" => options.no_packets = true,
            other => bail!("{other} is not an option\n{USAGE}"),
        }
    }
    Ok(options)
}
