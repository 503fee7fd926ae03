//! Channels between linear layers and what makes their inputs: they can be scaled without a change of what the model computes.
//!
//! `W x = (W S) (S⁻¹ x)` for any diagonal `S`. `S⁻¹` goes into what makes `x`: the norm before the layer, the rows of the way up for what the
//! way down sees (the gate's activation is multiplied with it), or those of the values for what attention's output sees.

use crate::students::layer_of;
use bantam_checkpoint::{Checkpoint, Config};

/// What makes the input of linear layers, channel by channel.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    /// The tensors whose rows (of a vector: elements) are divided: a norm's weight, or a matrix and its bias.
    pub tensors: Vec<String>,
    /// Channels of a head of values, and query heads that share one: each of its rows makes a channel for each of them.
    pub heads: Option<[usize; 2]>,
}

impl Maker {
    /// That of this layer's input, if there is one.
    pub fn of(model: &Checkpoint, config: &Config, path: &str) -> Option<Self> {
        let of_layer = |names: &[&str]| {
            let (layer, _) = layer_of(path).expect("it is in a layer");
            names.iter().map(|name| format!("blk.{layer}.{name}")).collect()
        };
        let (tensors, heads): (Vec<String>, _) = match layer_of(path).map_or(path, |(_, role)| role) {
            "attn_q.weight" | "attn_k.weight" | "attn_v.weight" => (of_layer(&["attn_norm.weight"]), None),
            "attn_output.weight" => {
                let heads = [config.value_length, config.head_count / config.head_count_kv];
                (of_layer(&["attn_v.weight", "attn_v.bias"]), Some(heads))
            }
            "ffn_gate.weight" | "ffn_up.weight" => (of_layer(&["ffn_norm.weight"]), None),
            "ffn_down.weight" => (of_layer(&["ffn_up.weight", "ffn_up.bias"]), None),
            "output.weight" => (vec!["output_norm.weight".to_owned()], None),
            _ => return None,
        };
        let there: Vec<String> = tensors.into_iter().filter(|name| model.tensor(name).is_some()).collect();
        (!there.is_empty()).then_some(Self { tensors: there, heads })
    }

    /// Gives channels that one row makes one factor: their geometric mean.
    pub fn even(&self, factors: &mut [f32]) {
        let Some([length, shared]) = self.heads else { return };
        for heads in factors.chunks_exact_mut(length * shared) {
            for channel in 0..length {
                let of_row = || (channel..length * shared).step_by(length);
                let mean = (of_row().map(|i| heads[i].ln()).sum::<f32>() / shared as f32).exp();
                of_row().for_each(|i| heads[i] = mean);
            }
        }
    }

    /// What rows are divided by, of the factors of channels.
    pub fn of_rows(&self, factors: &[f32]) -> Vec<f32> {
        let [length, shared] = self.heads.unwrap_or([factors.len(), 1]);
        factors.chunks_exact(length * shared).flat_map(|heads| &heads[..length]).copied().collect()
    }
}

/// Makes the geometric mean of factors 1.
pub(super) fn center(factors: &mut [f32]) {
    let mean = factors.iter().map(|f| f.ln()).sum::<f32>() / factors.len() as f32;
    factors.iter_mut().for_each(|f| *f = (f.ln() - mean).exp());
}

/// Multiplies each column of a matrix by its factor.
pub(super) fn multiply_columns(values: &mut [f32], factors: &[f32]) {
    let rows = values.chunks_exact_mut(factors.len());
    rows.for_each(|row| row.iter_mut().zip(factors).for_each(|(w, factor)| *w *= factor));
}

/// Divides each row of a matrix by its factor; a vector has rows of one.
pub(super) fn divide_rows(values: &mut [f32], factors: &[f32]) {
    let rows = values.chunks_exact_mut(values.len() / factors.len());
    rows.zip(factors).for_each(|(row, factor)| row.iter_mut().for_each(|w| *w /= factor));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_values_make_a_channel_for_each_query_head() {
        // Two heads of two values, each shared by three query heads.
        let maker = Maker { tensors: Vec::new(), heads: Some([2, 3]) };
        let mut factors = [1.0, 8.0, 2.0, 8.0, 4.0, 8.0, 3.0, 1.0, 3.0, 10.0, 3.0, 100.0];
        maker.even(&mut factors);
        let close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * b);
        assert!(close(&factors, &[2.0, 8.0, 2.0, 8.0, 2.0, 8.0, 3.0, 10.0, 3.0, 10.0, 3.0, 10.0]), "{factors:?}");
        assert!(close(&maker.of_rows(&factors), &[2.0, 8.0, 3.0, 10.0]));
        center(&mut factors);
        assert!((factors.iter().product::<f32>() - 1.0).abs() < 1e-5);
    }
}
