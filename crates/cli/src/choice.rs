//! A choice of formats: what is said of it, and what became of it.

use crate::output;
use bantam_formats::Format;
use bantam_shrink::allocate::{Allocation, Dearer, Sensitivity, Speed};
use serde::Serialize;

/// What was chosen, and what it will cost as far as is known before it is done.
#[derive(Serialize)]
pub struct Chosen {
    /// The width of the model's rows before and after it was widened, and what would be lost without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widened: Option<Widened>,
    /// KL divergence in nats per token, the sum of the tensors'.
    pub predicted_kl_divergence: f64,
    /// That of the file, on text that was held out, if there was enough of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_kl_divergence: Option<f64>,
    /// Formats that cost this model more than tensors do one by one; counted so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dearer: Vec<Dearer>,
    /// On this machine, if a speed was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_tokens_per_second: Option<f64>,
    pub tensors: Vec<ChosenTensor>,
}

/// A model whose rows were made longer for better formats.
#[derive(Serialize)]
pub struct Widened {
    pub from: usize,
    pub to: usize,
    /// KL divergence in nats per token of the best choice in the model as it is.
    pub instead_of: Option<f64>,
}

/// What was chosen for one tensor.
#[derive(Serialize)]
pub struct ChosenTensor {
    pub tensor: String,
    pub format: &'static str,
    pub bytes: u64,
    pub predicted_kl_divergence: f64,
}

impl Chosen {
    /// What this allocation chose for the tensors measured, and how fast that is.
    pub fn of(allocation: &Allocation, measured: &[Sensitivity], speed: Option<&Speed>) -> Self {
        let tensors = measured.iter().zip(&allocation.choices).map(|(tensor, choice)| ChosenTensor {
            tensor: tensor.tensor.clone(),
            format: choice.format.name,
            bytes: choice.bytes,
            predicted_kl_divergence: choice.divergence,
        });
        Self {
            widened: None,
            predicted_kl_divergence: allocation.divergence(),
            measured_kl_divergence: None,
            dearer: Vec::new(),
            predicted_tokens_per_second: speed.map(|speed| speed.predicted(measured, &allocation.choices)),
            tensors: tensors.collect(),
        }
    }
}

/// A file that loses so many times what was predicted has formats that were chosen by wrong numbers; unless it loses less than this, in nats
/// per token, of which the rounding of activations is most.
const WRONG: f64 = 3.0;
const FELT: f64 = 0.005;

/// What is said where a choice came to far more than was predicted.
pub fn wrong(chosen: &Chosen) -> Option<String> {
    let predicted = chosen.predicted_kl_divergence;
    let measured = chosen.measured_kl_divergence.filter(|measured| *measured > WRONG * predicted.max(FELT))?;
    Some(format!(
        "warning: on text held out the file is {measured:.4} nats per token from its base, where {predicted:.4} was predicted: other formats may be \
         better for this model; compare with a level of about this size (--to, with --calibrate)"
    ))
}

/// Tells the user which formats were chosen, and what that is predicted to cost.
pub fn show(chosen: &Chosen) -> anyhow::Result<()> {
    output::line(format_args!("{}", picture(chosen)))?;
    if let Some(Widened { from, to, instead_of }) = &chosen.widened {
        let without = instead_of.map_or("too few bytes without".to_owned(), |kl| format!("{kl:.2} nats without"));
        output::line(format_args!("rows made longer, from {from} to {to} channels ({without})"))?;
    }
    if !chosen.dearer.is_empty() {
        let times = chosen.dearer.iter().map(|dearer| format!("{} (counted {:.0} times)", dearer.format, dearer.times));
        output::line(format_args!(
            "costs more as a whole than tensor by tensor, as where a model was trained a little after it had been rounded to such a grid: {}",
            times.collect::<Vec<_>>().join(", ")
        ))?;
    }
    let predicted = chosen.predicted_kl_divergence;
    match chosen.measured_kl_divergence {
        Some(measured) => output::line(format_args!(
            "KL divergence on text held out: {measured:.4} nats per token (about {predicted:.4} was predicted)"
        ))?,
        None => output::line(format_args!("predicted KL divergence: about {predicted:.4} nats per token"))?,
    }
    if let Some(speed) = chosen.predicted_tokens_per_second {
        output::line(format_args!("predicted speed on this machine: about {speed:.0} tokens per second"))?;
    }
    Ok(())
}

/// A picture of the formats chosen: a row for each layer, or for several that are alike, and a column for each role.
fn picture(chosen: &Chosen) -> String {
    let layers = chosen.tensors.iter().filter_map(|t| {
        let (layer, role) = t.tensor.strip_prefix("blk.")?.trim_end_matches(".weight").split_once('.')?;
        Some((layer.parse().ok()?, role, t.format))
    });
    let layers: Vec<(usize, &str, &str)> = layers.collect();
    let mut roles: Vec<&str> = Vec::new();
    layers.iter().for_each(|(_, role, _)| {
        if !roles.contains(role) {
            roles.push(role)
        }
    });
    let count = layers.iter().map(|(layer, ..)| layer + 1).max().unwrap_or(0);
    let format = |layer: usize, role: &str| layers.iter().find(|l| l.0 == layer && l.1 == role).map_or("", |l| l.2);
    let rows: Vec<Vec<&str>> = (0..count).map(|layer| roles.iter().map(|r| format(layer, r)).collect()).collect();
    let width = |role: &str| role.len().max(7) + 2;
    let mut text = format!("{:<12}", "layer");
    roles.iter().for_each(|role| text += &format!("{role:<width$}", width = width(role)));
    let mut first = 0;
    for alike in rows.chunk_by(|a, b| a == b) {
        let last = first + alike.len() - 1;
        let name = if first == last { first.to_string() } else { format!("{first}–{last}") };
        text += &format!("\n{name:<12}");
        roles.iter().zip(&alike[0]).for_each(|(role, format)| text += &painted(format, width(role)));
        first = last + 1;
    }
    for t in chosen.tensors.iter().filter(|t| !t.tensor.starts_with("blk.")) {
        text += &format!("\n{:<12}{}", t.tensor.trim_end_matches(".weight"), painted(t.format, 0));
    }
    text
}

/// A format's name in a colour that goes from red to blue with its bits, where the terminal has colours.
fn painted(name: &str, width: usize) -> String {
    /// Of the 256 colours of terminals, from two bits to eight.
    const COLOURS: [u8; 7] = [196, 208, 220, 112, 42, 38, 33];
    let bits = Format::by_name(name).map_or(0.0, Format::bits);
    let colour = COLOURS[(bits as usize).saturating_sub(2).min(COLOURS.len() - 1)];
    console::style(format!("{name:<width$}")).color256(colour).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(predicted: f64, measured: Option<f64>, tensors: Vec<ChosenTensor>) -> Chosen {
        Chosen {
            widened: None,
            predicted_kl_divergence: predicted,
            measured_kl_divergence: measured,
            dearer: Vec::new(),
            predicted_tokens_per_second: None,
            tensors,
        }
    }

    #[test]
    fn a_choice_that_came_to_far_more_is_warned_of() {
        let warning = wrong(&of(0.01, Some(0.05), Vec::new())).unwrap();
        assert!(warning.contains("0.0500") && warning.contains("0.0100") && !warning.contains("  "), "{warning}");
        // Not what is near it, nor what rounding of activations alone makes of a file that loses nothing.
        for (predicted, measured) in [(0.01, Some(0.02)), (0.0001, Some(0.004)), (0.01, None)] {
            assert_eq!(wrong(&of(predicted, measured, Vec::new())), None);
        }
    }

    #[test]
    fn layers_that_are_alike_share_a_row() {
        let tensor = |name: &str, format| ChosenTensor {
            tensor: format!("{name}.weight"),
            format,
            bytes: 1,
            predicted_kl_divergence: 0.0,
        };
        let tensors = vec![
            tensor("blk.0.attn_q", "Q8_0"),
            tensor("blk.0.ffn_down", "Q4_0"),
            tensor("blk.1.attn_q", "Q4_0"),
            tensor("blk.1.ffn_down", "Q4_0"),
            tensor("blk.2.attn_q", "Q4_0"),
            tensor("blk.2.ffn_down", "Q4_0"),
            tensor("token_embd", "Q6_K"),
        ];
        let picture = picture(&of(0.0, None, tensors));
        let picture = console::strip_ansi_codes(&picture);
        let rows: Vec<Vec<&str>> = picture.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["layer", "attn_q", "ffn_down"]);
        assert_eq!(rows[1..], [vec!["0", "Q8_0", "Q4_0"], vec!["1–2", "Q4_0", "Q4_0"], vec!["token_embd", "Q6_K"]]);
    }
}
