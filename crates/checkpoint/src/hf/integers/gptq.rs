//! GPTQ's checkpoint format, of AutoGPTQ and GPTQModel, which vLLM and transformers read: 4 bits symmetric, columns in their order.
//!
//! Everything lies transposed: `qweight` `[cols / 8, rows]` holds eight neighbouring columns of a row in a word, `scales` `[cols / group, rows]`, and
//! `qzeros` `[cols / group, rows / 8]` the zeros less one, eight rows in a word. `g_idx` says which group a column is in.

use super::{Packing, PartInfo, Shape, pack_nibbles};
use serde_json::{Value, json};

/// 4 bits.
pub static GPTQ: Packing = Packing {
    name: "gptq",
    bits: 4,
    uniform: true,
    parts: |shape| {
        let Shape { rows, cols, .. } = *shape;
        let groups = shape.groups();
        vec![
            PartInfo { suffix: "qweight", dtype: "I32", shape: vec![cols / 8, rows] },
            PartInfo { suffix: "qzeros", dtype: "I32", shape: vec![groups, rows / 8] },
            PartInfo { suffix: "scales", dtype: "F16", shape: vec![groups, rows] },
            PartInfo { suffix: "g_idx", dtype: "I32", shape: vec![cols] },
        ]
    },
    shape: |part| {
        let [words, rows]: [usize; 2] = part("qweight")?.try_into().ok()?;
        let [groups, _]: [usize; 2] = part("scales")?.try_into().ok()?;
        let cols = words.checked_mul(8)?;
        Some((rows, cols, cols.checked_div(groups)?))
    },
    pack: |integers| {
        let Shape { rows, cols, .. } = integers.shape;
        let groups = integers.shape.groups();
        let words = (0..cols).step_by(8).flat_map(|c| (0..rows).map(move |r| r * cols + c));
        let quants = words.flat_map(|at| &integers.quants[at..at + 8]).copied();
        let scales = transposed(&integers.half_scales(), rows, groups);
        let zeros = vec![(ZERO - 1) * 0x11; groups * rows / 2];
        vec![pack_nibbles(quants), zeros, scales, in_order(&integers.shape)]
    },
    check: |shape, parts| {
        if parts[1].iter().any(|&zeros| zeros != (ZERO - 1) * 0x11) {
            return Err("its zeros are not 8: it is not symmetric, which bantam does not read".into());
        }
        match parts[3] == in_order(shape) {
            true => Ok(()),
            false => Err("its columns are grouped in another order (desc_act), which bantam does not read".into()),
        }
    },
    unpack: |shape, parts| {
        let Shape { rows, cols, .. } = *shape;
        let mut quants = vec![0; rows * cols];
        for (c, words) in (0..cols).step_by(8).zip(parts[0].chunks_exact(4 * rows)) {
            for (r, word) in words.as_chunks::<4>().0.iter().enumerate() {
                let word = u32::from_le_bytes(*word);
                for (i, quant) in quants[r * cols + c..][..8].iter_mut().enumerate() {
                    *quant = (word >> (4 * i) & 15) as u8;
                }
            }
        }
        (quants, transposed(parts[2], shape.groups(), rows))
    },
    config: |groups, _| {
        let group = groups.first().map_or(128, |g| g.format.block);
        json!({
            "quant_method": "gptq", "bits": 4, "group_size": group, "sym": true, "desc_act": false, "lm_head": false,
            "true_sequential": true, "damp_percent": 0.01, "checkpoint_format": "gptq",
        })
    },
};

/// The quant that means zero.
const ZERO: u8 = 8;

/// The group of each column: a word each.
fn in_order(shape: &Shape) -> Vec<u8> {
    (0..shape.cols).flat_map(|c| ((c / shape.group()) as u32).to_le_bytes()).collect()
}

/// The transpose of a matrix of numbers, whatever their size.
fn transposed(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let size = bytes.len() / (rows * cols);
    let at = (0..cols).flat_map(|c| (0..rows).map(move |r| (r * cols + c) * size));
    at.flat_map(|at| &bytes[at..at + size]).copied().collect()
}

/// That this is the packing which a configuration speaks of.
///
/// # Errors
/// What it has that bantam does not read.
pub fn packing_of(config: &Value) -> Result<&'static Packing, String> {
    if config["bits"] != 4 {
        return Err(format!("its weights have {} bits; bantam reads GPTQ with 4", config["bits"]));
    }
    if config["sym"] == false {
        return Err("its weights are not symmetric (sym)".into());
    }
    match config["checkpoint_format"].as_str().unwrap_or("gptq") {
        "gptq" => Ok(&GPTQ),
        other => Err(format!("its checkpoint_format is {other:?}; bantam reads \"gptq\"")),
    }
}
