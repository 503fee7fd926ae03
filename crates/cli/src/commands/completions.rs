//! `bantam completions`: a shell's completion script.

use crate::args::Cli;
use clap::{Args, CommandFactory};

#[derive(Args)]
#[command(after_help = "Example:\n  bantam completions bash > ~/.local/share/bash-completion/completions/bantam")]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    clap_complete::generate(args.shell, &mut Cli::command(), "bantam", &mut std::io::stdout());
    Ok(())
}
