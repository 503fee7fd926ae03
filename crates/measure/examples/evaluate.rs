//! Candidates against a base, as JSON: `evaluate BASE CANDIDATE... [--text FILE] [--chunks N]`; without a text, the quick
//! suite.

use bantam_checkpoint::Checkpoint;
use bantam_measure::{Base, Options, Progress, Suite, Text, conclusion, data, evaluate};

struct Stderr;

impl Progress for Stderr {
    fn update(&self, activity: &str, done: usize, total: usize, unit: &str) {
        eprint!("\r{activity}: {done} of {total} {unit}  ");
    }

    fn note(&self, note: &str) {
        eprintln!("\nnote: {note}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut models = Vec::new();
    let mut options = Options { samples: false, ..Options::default() };
    let mut suite = Suite::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--text" => suite.texts.push(Text::read(args.next().ok_or("--text needs a file")?)?),
            "--chunks" => options.chunks = Some(args.next().ok_or("--chunks needs a number")?.parse()?),
            _ => models.push(Checkpoint::open(arg)?),
        }
    }
    if suite.texts.is_empty() {
        suite = data::suite("quick").expect("a built-in suite");
        options.samples = true;
    }
    let (base, candidates) = models.split_first().ok_or("evaluate BASE CANDIDATE... [--text FILE] [--chunks N]")?;
    let mut base = Base::prepare(base, &suite, &options, &Stderr)?;
    for candidate in candidates {
        let evaluation = evaluate(candidate, &mut base, &Stderr)?;
        eprintln!("\n{}", conclusion::paragraph(&evaluation, base.summary()));
        println!("{}", serde_json::to_string_pretty(&evaluation)?);
    }
    Ok(())
}
