//! Shows network policy at work between network namespaces: `cargo xtask demo`, which builds all
//! that this needs. See `policy_tests::demo`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use policy_tests::demo::{Options, run};

const USAGE: &str = "usage: demo [--keep]
  --keep  leave everything in place until Enter is pressed, and say what to try";

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("demo: {error:#}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options::default();
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--keep" => options.keep = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => bail!("{other} is not an option\n{USAGE}"),
        }
    }
    Ok(options)
}
