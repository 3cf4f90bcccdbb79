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
    write(&completed(args.shell, command));
    DONE
}

fn completed(shell: Shell, command: &mut Command) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, command, "policy-agent", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// `man`.
pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<u8> {
    let Some(text) = page(args.command.as_deref(), command)? else {
        let name = args.command.as_deref().unwrap_or_default();
        eprintln!("policy-agent: there is no command {name:?}; see policy-agent --help");
        return Ok(USAGE);
    };
    write(&text);
    Ok(DONE)
}

/// The page of a subcommand, or of all; `None`: there is no such command.
fn page(name: Option<&str>, command: Command) -> std::io::Result<Option<String>> {
    // Fills in what subcommands take over from the whole: version, full name.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let page = match name {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => return Ok(None),
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let text = completed(*shell, &mut Cli::command());
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                assert!(text.contains(name), "{shell}: {name}");
            }
        }
    }

    #[test]
    fn every_command_has_a_page_with_its_options_and_their_variables() {
        let text = page(None, Cli::command()).unwrap().unwrap();
        assert!(text.contains("policy\\-agent"), "{text}");
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let text = page(Some(name), Cli::command()).unwrap();
            let text = text.unwrap_or_else(|| panic!("{name} has no page"));
            let title = format!(".TH policy-agent-{name} ");
            assert!(text.contains(&title), "{name}: {text}");
            for option in command.get_arguments() {
                if let Some(variable) = option.get_env().and_then(|env| env.to_str()) {
                    assert!(text.contains(variable), "{name}: {variable}");
                }
            }
        }
        assert_eq!(page(Some("dance"), Cli::command()).unwrap(), None);
    }
}
