//! One file per subcommand, each with its arguments and a flat `run`.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod convert;
pub mod distill;
pub mod embed;
pub mod eval;
pub mod experiment;
pub mod generate;
pub mod inspect;
pub mod quantize;
pub mod run;
pub mod shrink;
pub mod student;
pub mod teach;
pub mod train;
pub mod tune;
