//! `bantam completions`: a shell's completion script.

use crate::{args::Cli, output};
use clap::{Args, CommandFactory};

#[derive(Args)]
#[command(after_help = "Example:\n  bantam completions bash > ~/.local/share/bash-completion/completions/bantam")]
pub struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    // Generated in memory: writing straight to a closed pipe would panic.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bantam", &mut script);
    output::print(format_args!("{}", String::from_utf8_lossy(&script)))
}
