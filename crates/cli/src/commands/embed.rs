//! `bantam embed`: texts to embeddings.

use crate::args::Global;
use crate::places::Places;
use crate::{output, progress};
use anyhow::{Context, bail};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::OutputFile;
use bantam_nn::Encoder;
use bantam_shrink::text::{Sentences, SourceSpec};
use clap::Args;
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
#[command(after_help = "\
Texts are one a line; in a .jsonl file a line is an object with `text`. Blank ones are left out, and it is said how many.
Embeddings are unit vectors: the inner product of two is their cosine. Without --output, each is printed as a line of JSON, in the
order of the texts.

Examples:
  bantam embed all-minilm-l6-v2.gguf sentences.txt
  bantam embed all-minilm-l6-v2.gguf sentences.txt -o embeddings.npy     an array [texts, width] of f32 for numpy
  bantam embed ./hf-directory sentences.jsonl -o embeddings.jsonl")]
pub struct EmbedArgs {
    /// The encoder: a GGUF file or a Hugging Face directory
    model: PathBuf,
    /// The texts
    file: PathBuf,
    /// Write to this file, .npy or .jsonl, instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A text and its embedding: a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    text: &'a str,
    embedding: &'a [f32],
}

#[derive(Serialize)]
struct Embedded {
    #[serde(serialize_with = "crate::output::path")]
    output: PathBuf,
    texts: usize,
    width: usize,
    seconds: f64,
}

/// Texts embedded at a time.
const AT_ONCE: usize = 256;

pub fn run(args: &EmbedArgs, global: &Global) -> anyhow::Result<()> {
    let is = |path: &Path, extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    match &args.output {
        Some(path) if !is(path, "npy") && !is(path, "jsonl") => {
            bail!("{}: embeddings are written as .npy or .jsonl; give the output one of these names", path.display())
        }
        _ => {}
    }
    let places = Places::default().reads("the model", [&args.model]).reads("the texts", [&args.file]);
    places.writes("-o", &args.output).check()?;
    let encoder = Encoder::load(&Checkpoint::open(&args.model)?)?;
    let embedder = (args.model.as_path(), &encoder);
    let spec = SourceSpec { category: "text".to_owned(), path: args.file.clone(), weight: None };
    let Sentences { texts, blank, .. } = Sentences::read(spec)?;
    if blank > 0 && !global.quiet {
        let said = "texts without words are left out";
        output::say(format_args!(
            "note: {}: {said} ({blank}); the embeddings are numbered without them",
            args.file.display()
        ));
    }
    let start = Instant::now();
    let Some(path) = &args.output else {
        let mut out = BufWriter::new(std::io::stdout().lock());
        let to = "cannot write to standard output";
        let mut write = |texts: &[String], embeddings: &[f32]| write_lines(&mut out, texts, embeddings).context(to);
        each(embedder, &texts, global, &mut write)?;
        return out.flush().context(to);
    };
    let mut file = OutputFile::create(path)?;
    if is(path, "npy") {
        file.write_all(&npy_header(texts.len(), encoder.width()))?;
        each(embedder, &texts, global, &mut |_, embeddings| {
            let bytes: Vec<u8> = embeddings.iter().flat_map(|v| v.to_le_bytes()).collect();
            file.write_all(&bytes).with_context(|| format!("{}: cannot write", path.display()))
        })?;
    } else {
        let to = || format!("{}: cannot write", path.display());
        let mut write =
            |texts: &[String], embeddings: &[f32]| write_lines(&mut file, texts, embeddings).with_context(to);
        each(embedder, &texts, global, &mut write)?;
    }
    file.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    let embedded = Embedded { output: path.clone(), texts: texts.len(), width: encoder.width(), seconds };
    if global.json {
        return output::json(&embedded);
    }
    output::line(format_args!(
        "{}: {} embeddings of width {} in {seconds:.1} s",
        path.display(),
        embedded.texts,
        embedded.width
    ))
}

/// What is done with some texts and their embeddings.
type WriteSome<'a> = &'a mut dyn FnMut(&[String], &[f32]) -> anyhow::Result<()>;

/// Embeds all texts, some at a time.
fn each(
    (model, encoder): (&Path, &Encoder),
    texts: &[String],
    global: &Global,
    write: WriteSome<'_>,
) -> anyhow::Result<()> {
    let bar = progress::bar(global, "embed", texts.len() as u64, "texts");
    for texts in texts.chunks(AT_ONCE) {
        let embeddings =
            encoder.embed_texts(texts).map_err(|e| bantam_measure::Error::of_embedding(e, model, texts))?;
        write(texts, &embeddings)?;
        bar.inc(texts.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn write_lines(out: &mut dyn Write, texts: &[String], embeddings: &[f32]) -> anyhow::Result<()> {
    for (text, embedding) in texts.iter().zip(embeddings.chunks(embeddings.len() / texts.len())) {
        let written = serde_json::to_writer(&mut *out, &Line { text, embedding }).map_err(std::io::Error::from);
        written.and_then(|()| out.write_all(b"\n"))?;
    }
    Ok(())
}

/// The header of numpy's format, version 1, of an array of f32 in rows.
fn npy_header(rows: usize, cols: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    // Numbers begin at a multiple of 64; before the text stand 10 bytes, after it a line's end.
    let padding = (text.len() + 11).next_multiple_of(64) - (text.len() + 11);
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    [&b"\x93NUMPY\x01\x00"[..], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
}
