//! `bantam inspect`: what a model is, what it needs, and whether it fits this machine.

use crate::{args::Global, output};
use bantam_checkpoint::{Checkpoint, Config};
use bantam_measure::report::printable;
use bantam_measure::{machine, results::ModelSummary, summary};
use bantam_shrink::Mix;
use bantam_shrink::quantize::{Method, Plan};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Mixes whose sizes are shown: one a bit width.
const LEVELS: [&str; 7] = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"];

/// Bytes of a cached key or value: f16.
const CACHE_BYTES: usize = 2;

#[derive(Args)]
#[command(after_help = "Example:\n  bantam inspect model.gguf --context 8192")]
pub struct InspectArgs {
    /// A GGUF file or a Hugging Face directory
    model: PathBuf,
    /// Context length to compute memory for, in tokens
    #[arg(long, default_value_t = 4096, value_name = "TOKENS")]
    context: usize,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

#[derive(Serialize)]
struct Inspection {
    model: ModelSummary,
    block_count: usize,
    embedding_length: usize,
    feed_forward_length: usize,
    head_count: usize,
    head_count_kv: usize,
    vocab_size: usize,
    context_length: usize,
    sliding_window: Option<usize>,
    /// How an encoder makes one vector of a text's; language models do not.
    pooling: Option<String>,
    kv_bytes_per_token: u64,
    context: usize,
    kv_bytes: u64,
    machine_memory: u64,
    available_memory: u64,
    levels: Vec<Level>,
    provenance: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<Tensor>,
}

/// The model at one precision.
#[derive(Serialize)]
struct Level {
    level: &'static str,
    file_bytes: u64,
    /// Weights and cache; working buffers come on top, some tens of MB.
    memory: u64,
    /// Nothing where free memory is not known.
    fits: Option<bool>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    format: &'static str,
    bytes: usize,
}

pub fn run(args: &InspectArgs, global: &Global) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let inspection = inspect(&checkpoint, args)?;
    if global.json { output::json(&inspection) } else { print(&inspection) }
}

fn inspect(checkpoint: &Checkpoint, args: &InspectArgs) -> anyhow::Result<Inspection> {
    let config = Config::of(checkpoint)?;
    let kv_bytes = kv_bytes(&config, args.context);
    let machine = machine::detect();
    let available_memory = machine::available_memory();
    let levels = LEVELS.iter().map(|&level| {
        let file_bytes = Plan::new(checkpoint, Mix::by_name(level)?)?.file_bytes(Method::Nearest);
        let memory = file_bytes.saturating_add(kv_bytes);
        Ok(Level { level, file_bytes, memory, fits: (available_memory > 0).then_some(memory < available_memory) })
    });
    let tensor = |t: &bantam_checkpoint::TensorInfo| Tensor {
        name: t.name.clone(),
        shape: t.shape.clone(),
        format: t.format.name,
        bytes: t.bytes(),
    };
    Ok(Inspection {
        model: summary::of(checkpoint)?,
        block_count: config.block_count,
        embedding_length: config.embedding_length,
        feed_forward_length: config.feed_forward_length,
        head_count: config.head_count,
        head_count_kv: config.head_count_kv,
        vocab_size: config.vocab_size,
        context_length: config.context_length,
        sliding_window: config.sliding_window.as_ref().map(|w| w.size),
        pooling: config.encoder.map(|encoder| format!("{:?}", encoder.pooling).to_lowercase()),
        kv_bytes_per_token: kv_bytes_per_layer(&config) * config.block_count as u64,
        context: args.context,
        kv_bytes,
        machine_memory: machine.memory,
        available_memory,
        levels: levels.collect::<anyhow::Result<_>>()?,
        provenance: bantam_checkpoint::provenance::of(checkpoint.metadata()).iter().map(ToString::to_string).collect(),
        tensors: if args.tensors { checkpoint.tensors().iter().map(tensor).collect() } else { Vec::new() },
    })
}

fn kv_bytes_per_layer(config: &Config) -> u64 {
    if config.encoder.is_some() {
        return 0; // An encoder sees whole texts and keeps nothing.
    }
    (config.head_count_kv * (config.key_length + config.value_length) * CACHE_BYTES) as u64
}

/// Bytes of the keys and values of `context` tokens.
fn kv_bytes(config: &Config, context: usize) -> u64 {
    (kv_bytes_per_layer(config) * config.block_count as u64).saturating_mul(context as u64)
}

fn print(i: &Inspection) -> anyhow::Result<()> {
    print_model(i)?;
    print_levels(i)?;
    print_tensors(&i.tensors)
}

/// What the model is, what it takes, and how it was made.
fn print_model(i: &Inspection) -> anyhow::Result<()> {
    let m = &i.model;
    output::line(format_args!("{}", m.path))?;
    output::line(format_args!(
        "  architecture   {}, {} layers, width {}, feed-forward {}",
        m.architecture, i.block_count, i.embedding_length, i.feed_forward_length
    ))?;
    output::line(format_args!(
        "  attention      {} heads, {} key-value heads{}",
        i.head_count,
        i.head_count_kv,
        i.sliding_window.map_or(String::new(), |w| format!(", sliding window {w}"))
    ))?;
    output::line(format_args!(
        "  vocabulary     {} tokens; trained for {} tokens of context",
        i.vocab_size, i.context_length
    ))?;
    output::line(format_args!(
        "  parameters     {:.1} M, {:.2} bits each",
        m.parameters as f64 / 1e6,
        m.bits_per_weight
    ))?;
    output::line(format_args!("  file           {}", output::bytes(m.file_bytes)))?;
    for (format, bytes) in &m.bytes_by_format {
        output::line(format_args!("    {format:<10}   {}", output::bytes(*bytes)))?;
    }
    if let Some(quantized_as) = &m.quantized_as {
        output::line(format_args!(
            "  note           these weights were quantized before ({}); what that cost cannot be seen here",
            printable(quantized_as)
        ))?;
    }
    for step in &i.provenance {
        output::line(format_args!("  made by        {}", printable(step)))?;
    }
    if let Some(pooling) = &i.pooling {
        return output::line(format_args!("  embeddings     {} wide, pooled: {pooling}\n", i.embedding_length));
    }
    output::line(format_args!(
        "  cache          {} per token, {} for {} tokens\n",
        output::bytes(i.kv_bytes_per_token),
        output::bytes(i.kv_bytes),
        i.context
    ))
}

/// How large the model would be at each level, and whether it would fit.
fn print_levels(i: &Inspection) -> anyhow::Result<()> {
    output::line(format_args!(
        "  {:<8} {:>10} {:>12}   {}",
        "level",
        "file",
        "with cache",
        match i.available_memory {
            0 => "fits here".to_owned(),
            free => format!("fits the {} free of {} here", output::bytes(free), output::bytes(i.machine_memory)),
        }
    ))?;
    i.levels.iter().try_for_each(|level| {
        let fits = level.fits.map_or("not known", |fits| if fits { "yes" } else { "no" });
        output::line(format_args!(
            "  {:<8} {:>10} {:>12}   {fits}",
            level.level,
            output::bytes(level.file_bytes),
            output::bytes(level.memory)
        ))
    })
}

fn print_tensors(tensors: &[Tensor]) -> anyhow::Result<()> {
    tensors.iter().try_for_each(|t| {
        output::line(format_args!(
            "  {:<40} {:<8} {:>10}  {:?}",
            printable(&t.name),
            t.format,
            output::bytes(t.bytes as u64),
            t.shape
        ))
    })
}
