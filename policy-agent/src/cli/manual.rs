//! What the command line says of itself: completions for shells, manual pages.

use clap::{Args, Command};
use clap_complete::Shell;

use super::output::write;
use super::{DONE, USAGE};

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
policy-agent completions bash > /etc/bash_completion.d/policy-agent")]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
policy-agent man | man -l -\n  \
policy-agent man status > /usr/local/share/man/man1/policy-agent-status.1")]
pub(super) struct ManArgs {
    /// The subcommand that the page is for; without it the page is for all.
    command: Option<String>,
}

/// `completions`.
pub(super) fn completions(args: &CompletionsArgs, command: &mut Command) -> u8 {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, command, "policy-agent", &mut text);
    write(&String::from_utf8_lossy(&text));
    DONE
}

/// `man`.
pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<u8> {
    // Fills in what subcommands take over from the whole: version, name.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                eprintln!("policy-agent: there is no command {name:?}; see policy-agent --help");
                return Ok(USAGE);
            }
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    write(&String::from_utf8_lossy(&text));
    Ok(DONE)
}
