//! A wider model that computes the same: channels that carry nothing, until blocks of 256 weights divide the rows.
//!
//! The formats with the best grids (K- and i-quants) have such blocks, and most small models have shorter rows. With zeros behind them a
//! row is longer, but each of its weights takes fewer bits: at four bits and below that can pay, which
//! [`allocate`](crate::allocate) finds out. Where to start: [`Widening::of`], [`Widening::planned`], [`Widening::write`].
//!
//! The mean square of a residual stream of `E` channels and `E' - E` zeros is `E / E'` of what it was, so that weights of norms become
//! `√(E / E')` times as large, and their epsilon `E / E'` times. Gemma's embedding is multiplied by `√E'` then, and so are, by its second norms,
//! the outputs of its layers: its whole stream is `√(E' / E)` times as large. Where heads fill the stream (Qwen 2) there are
//! more of them, of which nothing is read either.

use crate::Error;
use crate::quantize::Importance;
use crate::students::{layer_of, values};
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, TensorInfo, Value, provenance};
use bantam_formats::Format;
use std::path::Path;

/// The block of weights that rows are made divisible by.
const BLOCK: usize = 256;

/// Architectures whose tensors this module knows.
const KNOWN: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma3"];

/// What the channels along one side of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Anything that stays.
    Other,
    /// The residual stream.
    Stream,
    /// Neurons of a feed-forward layer.
    Neurons,
    /// Query heads.
    Heads,
}

/// How a model becomes wider.
#[derive(Clone, Debug)]
pub struct Widening {
    config: Config,
    embedding_length: usize,
    feed_forward_length: usize,
    head_count: usize,
}

/// Where the channels of a wider row come from: `None` is a new one.
pub type Origin = Vec<Option<usize>>;

impl Widening {
    /// How this model becomes one whose rows 256 divides. `None` if they are so, or it cannot.
    ///
    /// # Errors
    /// If its hyperparameters are missing or make no sense.
    pub fn of(model: &Checkpoint) -> Result<Option<Self>, Error> {
        let config = Config::of(model)?;
        if !KNOWN.contains(&&config.architecture[..]) {
            return Ok(None);
        }
        let embedding_length = config.embedding_length.next_multiple_of(BLOCK);
        let feed_forward_length = config.feed_forward_length.next_multiple_of(BLOCK);
        let fills = config.head_count * config.key_length == config.embedding_length;
        let heads = embedding_length / config.key_length;
        let may = fills && embedding_length % config.key_length == 0 && heads % config.head_count_kv == 0;
        // Loaders of Qwen 2 take it that heads fill the stream.
        if !may && config.architecture == "qwen2" {
            return Ok(None);
        }
        let head_count = if may { heads } else { config.head_count };
        let wider = Self { config, embedding_length, feed_forward_length, head_count };
        let changes = model.tensors().iter().any(|tensor| wider.shape(tensor) != tensor.shape);
        let known = model.tensors().iter().all(|tensor| sides(&tensor.name).is_some());
        Ok((changes && known).then_some(wider))
    }

    /// The shape that a tensor of the model gets.
    pub fn shape(&self, tensor: &TensorInfo) -> Vec<usize> {
        let sides = sides(&tensor.name).unwrap_or([Side::Other; 2]);
        tensor.shape.iter().zip(sides).map(|(&len, side)| self.origin(side).map_or(len, |o| o.len())).collect()
    }

    /// Where the channels of a matrix's rows come from. `None` if they stay.
    pub fn columns(&self, tensor: &TensorInfo) -> Option<Origin> {
        sides(&tensor.name).and_then(|[_, columns]| self.origin(columns)).filter(|o| o.contains(&None))
    }

    /// How much errors in the wider model's input channels matter, by that in the model's. New channels carry nothing, but those of new heads
    /// the mean of values: there weights are zero and have to stay so, as much as the average one matters.
    pub fn importance(&self, model: &Checkpoint, importance: &Importance) -> Importance {
        let wider = |(name, values): (&String, &Vec<f32>)| {
            let columns = model.tensor(name).and_then(|tensor| self.columns(tensor));
            let of_heads = sides(name).is_some_and(|[_, columns]| columns == Side::Heads);
            let new = if of_heads { values.iter().sum::<f32>() / values.len() as f32 } else { 0.0 };
            let spread = columns.map(|origin| origin.iter().map(|from| from.map_or(new, |i| values[i])).collect());
            (name.clone(), spread.unwrap_or_else(|| values.clone()))
        };
        importance.iter().map(wider).collect()
    }

    fn origin(&self, side: Side) -> Option<Origin> {
        let then_none = |old: usize, new: usize| (0..new).map(|i| (i < old).then_some(i)).collect();
        let (config, width) = (&self.config, self.config.key_length);
        match side {
            Side::Other => None,
            Side::Stream => Some(then_none(config.embedding_length, self.embedding_length)),
            Side::Neurons => Some(then_none(config.feed_forward_length, self.feed_forward_length)),
            // Heads that share keys and values stand together, the new ones behind those of each group.
            Side::Heads => {
                let [old, new] = [config.head_count, self.head_count].map(|heads| heads / config.head_count_kv);
                let of = |head: usize| (head % new < old).then(|| head / new * old + head % new);
                let channel = |i: usize| of(i / width).map(|head| head * width + i % width);
                Some((0..self.head_count * width).map(channel).collect())
            }
        }
    }

    /// What the weights of this norm are multiplied by.
    fn scale(&self, name: &str) -> f32 {
        let share = self.config.embedding_length as f32 / self.embedding_length as f32;
        let part = layer_of(name).map_or(name, |(_, part)| part);
        if ["attn_norm.weight", "ffn_norm.weight", "output_norm.weight"].contains(&part) { share.sqrt() } else { 1.0 }
    }

    /// The wider model before it is written: enough to choose formats for it. Messages name it by the model's path.
    pub fn planned(&self, model: &Checkpoint) -> Checkpoint {
        let tensors = model.tensors().iter().map(|tensor| self.info(tensor)).collect();
        Checkpoint::planned(model.path(), self.metadata(model), tensors)
    }

    /// Writes the wider model to `output`: weights of whole or half precision as they are, packed ones in F32. Calls `progress` with the
    /// number of the wider model's weights written since the last call.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn write(&self, model: &Checkpoint, output: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        model.refuse_overwriting(output)?;
        let planned = self.planned(model);
        let mut writer = GgufWriter::create(output, planned.metadata(), planned.tensors())?;
        for (tensor, info) in model.tensors().iter().zip(planned.tensors()) {
            let (values, scale) = (values(model, tensor)?, self.scale(&tensor.name));
            let sides = sides(&tensor.name).expect("checked when the widening was made");
            let encode = info.format.encode.expect("plain numbers can be written");
            let mut row = vec![0.0; info.cols()];
            let mut bytes = vec![0; info.format.bytes_of(info.cols()).expect("plain numbers have no blocks")];
            let columns = *sides.get(info.shape.len() - 1).expect("a tensor has one side or two");
            let columns = self.origin(columns).unwrap_or_else(|| (0..tensor.cols()).map(Some).collect());
            let rows = match info.shape.len() {
                1 => vec![Some(0)],
                _ => self.origin(sides[0]).unwrap_or_else(|| (0..tensor.rows()).map(Some).collect()),
            };
            for origin in rows {
                row.fill(0.0);
                if let Some(at) = origin {
                    let old = &values[at * tensor.cols()..][..tensor.cols()];
                    let filled = row.iter_mut().zip(&columns).filter_map(|(v, from)| Some((v, (*from)?)));
                    filled.for_each(|(v, from)| *v = scale * old[from]);
                }
                encode(&row, None, &mut bytes);
                writer.write(&bytes)?;
                progress(info.cols() as u64);
            }
        }
        Ok(writer.finish()?)
    }

    fn info(&self, tensor: &TensorInfo) -> TensorInfo {
        let plain = tensor.format.block == 1 && self.scale(&tensor.name) == 1.0;
        let format = if plain { tensor.format } else { Format::f32() };
        TensorInfo { name: tensor.name.clone(), shape: self.shape(tensor), format }
    }

    fn metadata(&self, model: &Checkpoint) -> bantam_checkpoint::Metadata {
        let (config, mut metadata) = (&self.config, model.metadata().clone());
        let mut set = |key: &str, value: Value| metadata.set(&format!("{}.{key}", config.architecture), value);
        set("embedding_length", Value::U32(self.embedding_length as u32));
        set("feed_forward_length", Value::U32(self.feed_forward_length as u32));
        set("attention.head_count", Value::U32(self.head_count as u32));
        set("attention.key_length", Value::U32(config.key_length as u32));
        set("attention.value_length", Value::U32(config.value_length as u32));
        if config.architecture != "gemma3" {
            let share = config.embedding_length as f32 / self.embedding_length as f32;
            set("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps * share));
        }
        let step = model
            .step("widen")
            .setting("from", config.embedding_length)
            .setting("to", self.embedding_length)
            .setting("weights", model.parameters());
        provenance::append(&mut metadata, step);
        metadata
    }
}

/// What the sides of a tensor of this name are, outputs and inputs; of a vector the first. `None` if it is not known.
fn sides(name: &str) -> Option<[Side; 2]> {
    use Side::{Heads, Neurons, Other, Stream};
    let part = layer_of(name).map_or(name, |(_, part)| part);
    Some(match part.strip_suffix(".weight").or(part.strip_suffix(".bias"))? {
        "token_embd" | "output" | "attn_k" | "attn_v" => [Other, Stream],
        "attn_q" => [Heads, Stream],
        "attn_output" => [Stream, Heads],
        "ffn_gate" | "ffn_up" => [Neurons, Stream],
        "ffn_down" => [Stream, Neurons],
        "output_norm" | "attn_norm" | "ffn_norm" | "post_attention_norm" | "post_ffw_norm" => [Stream, Other],
        "attn_q_norm" | "attn_k_norm" | "rope_freqs" => [Other, Other],
        _ => return None,
    })
}
