//! The `bantam` command. Each subcommand is one file in `commands/`.

mod allocation;
mod args;
mod calibration;
mod cautions;
mod choice;
mod commands;
mod data;
mod embeddings;
mod evaluation;
mod forecast;
mod intermediate;
mod interrupt;
mod judge;
mod output;
mod places;
mod progress;
mod training;
mod tuning;

use args::{Cli, Command};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;

/// The exit code of anything that went wrong: a wrong command line, a bad file, a full disk.
const FAILURE: u8 = 2;

fn main() -> ExitCode {
    // Numbers below 0 are answered by the option that they are given to, not taken for options themselves.
    let command = Cli::command().mut_subcommands(|command| command.allow_negative_numbers(true));
    let matches = command.try_get_matches().unwrap_or_else(|e| refuse(&e));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    interrupt::clean_up_first();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(format_args!("error: {}", output::paragraph(&error)));
            ExitCode::from(if error.is::<interrupt::Interrupted>() { interrupt::INTERRUPTED } else { FAILURE })
        }
    }
}

/// Options that take several files, and with them whatever comes after.
const OF_SEVERAL: [&str; 3] = ["--calibrate", "--data", "--text"];

/// Ends the process as clap does, with a hint where a model may have been taken for one of an option's files.
fn refuse(error: &clap::Error) -> ! {
    let positional = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing.iter().any(|name| name.starts_with('<')),
        _ => false,
    };
    let given = || std::env::args_os().find_map(|argument| OF_SEVERAL.into_iter().find(|option| argument == *option));
    if let (ErrorKind::MissingRequiredArgument, true, Some(option)) = (error.kind(), positional, given()) {
        let _ = error.print();
        output::say(format_args!("\n{option} takes all names that follow it as its files; put the model before it"));
        std::process::exit(error.exit_code());
    }
    error.exit()
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let global = &cli.global;
    global.start_threads()?;
    match &cli.command {
        Command::Inspect(args) => commands::inspect::run(args, global),
        Command::Convert(args) => commands::convert::run(args, global),
        Command::Quantize(args) => commands::quantize::run(args, global),
        Command::Tune(args) => commands::tune::run(args, global),
        Command::Eval(args) => commands::eval::run(args, global),
        Command::Compare(args) => commands::compare::run(args, global),
        Command::Embed(args) => commands::embed::run(args, global),
        Command::Run(args) => commands::run::run(args, global),
        Command::Bench(args) => commands::bench::run(args, global),
        Command::Shrink(args) => commands::shrink::run(args, global),
        Command::Student(args) => commands::student::run(args, global),
        Command::Generate(args) => commands::generate::run(args, global),
        Command::Train(args) => commands::train::run(args, global),
        Command::Teach(args) => commands::teach::run(args, global),
        Command::Distill(args) => commands::distill::run(args, global),
        Command::Experiment(args) => commands::experiment::run(args, global),
        Command::Completions(args) => commands::completions::run(args),
    }
}
