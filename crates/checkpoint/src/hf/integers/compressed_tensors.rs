//! compressed-tensors, which vLLM and transformers read: <https://github.com/vllm-project/compressed-tensors>.
//!
//! `pack-quantized` holds 4 bits symmetric with a scale for a group of columns, two quants a byte; `int-quantized` 8 bits with a scale for a row,
//! to be multiplied with activations that are rounded to 8 bits token by token.

use super::{Group, Packing, PartInfo, Shape, pack_nibbles, unpack_nibbles};
use serde_json::{Value, json};

/// 4 bits.
pub static PACK_QUANTIZED: Packing = Packing {
    name: "pack-quantized",
    bits: 4,
    uniform: false,
    parts: |shape| {
        let Shape { rows, cols, .. } = *shape;
        vec![
            PartInfo { suffix: "weight_packed", dtype: "I32", shape: vec![rows, cols / 8] },
            PartInfo { suffix: "weight_scale", dtype: "F16", shape: vec![rows, shape.groups()] },
            PartInfo { suffix: "weight_shape", dtype: "I64", shape: vec![2] },
        ]
    },
    shape: |part| {
        let [rows, words]: [usize; 2] = part("weight_packed")?.try_into().ok()?;
        let [_, groups]: [usize; 2] = part("weight_scale")?.try_into().ok()?;
        let cols = words.checked_mul(8)?;
        Some((rows, cols, cols.checked_div(groups)?))
    },
    pack: |integers| {
        let Shape { rows, cols, .. } = integers.shape;
        let shape = [rows as i64, cols as i64].iter().flat_map(|n| n.to_le_bytes()).collect();
        vec![pack_nibbles(integers.quants.iter().copied()), integers.half_scales(), shape]
    },
    check: |shape, parts| {
        let said: Vec<i64> = parts[2].as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
        match said == [shape.rows as i64, shape.cols as i64] {
            true => Ok(()),
            false => Err(format!("its weight_shape is {said:?}, but its numbers are {} by {}", shape.rows, shape.cols)),
        }
    },
    unpack: |_, parts| (unpack_nibbles(parts[0]), parts[1].to_vec()),
    config: |groups, ignored| {
        let weights = |group: &Group| args(4, "group", Some(group.format.block), false);
        config("pack-quantized", groups, ignored, &weights, &Value::Null)
    },
};

/// 8 bits, activations too.
pub static INT_QUANTIZED: Packing = Packing {
    name: "int-quantized",
    bits: 8,
    uniform: false,
    parts: |shape| {
        let Shape { rows, cols, .. } = *shape;
        vec![
            PartInfo { suffix: "weight", dtype: "I8", shape: vec![rows, cols] },
            PartInfo { suffix: "weight_scale", dtype: "F16", shape: vec![rows, 1] },
        ]
    },
    shape: |part| {
        let [rows, cols]: [usize; 2] = part("weight")?.try_into().ok()?;
        Some((rows, cols, cols))
    },
    pack: |integers| vec![signed(&integers.quants), integers.half_scales()],
    check: |_, _| Ok(()),
    unpack: |_, parts| (signed(parts[0]), parts[1].to_vec()),
    config: |groups, ignored| {
        let weights = |_: &Group| args(8, "channel", None, false);
        config("int-quantized", groups, ignored, &weights, &args(8, "token", None, true))
    },
};

/// From quants about 128 to signed bytes, and back.
fn signed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|b| b ^ 0x80).collect()
}

/// compressed-tensors' `QuantizationArgs`.
fn args(bits: u32, strategy: &str, group: Option<usize>, dynamic: bool) -> Value {
    json!({
        "num_bits": bits, "type": "int", "symmetric": true, "strategy": strategy, "group_size": group, "dynamic": dynamic,
        "block_structure": null, "actorder": null, "observer": if dynamic { Value::Null } else { "minmax".into() },
        "observer_kwargs": {},
    })
}

fn config(
    format: &str,
    groups: &[Group],
    ignored: &[String],
    weights: &dyn Fn(&Group) -> Value,
    activations: &Value,
) -> Value {
    let group = |(i, group): (usize, &Group)| {
        let targets: Vec<String> = match groups.len() {
            1 => vec!["Linear".to_owned()],
            _ => group.modules.iter().map(|m| format!(r"re:.*\.{}$", m.replace('.', r"\."))).collect(),
        };
        let scheme = json!({
            "targets": targets, "weights": weights(group), "input_activations": activations, "output_activations": null,
            "format": format,
        });
        (format!("group_{i}"), scheme)
    };
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": groups.iter().enumerate().map(group).collect::<serde_json::Map<_, _>>(),
        "ignore": ignored,
        "kv_cache_scheme": null,
        "global_compression_ratio": null,
    })
}

/// Which of the packings a configuration speaks of.
///
/// # Errors
/// What it has that bantam does not read.
pub fn packing_of(config: &Value) -> Result<&'static Packing, String> {
    let format = &config["format"];
    let packing = [&PACK_QUANTIZED, &INT_QUANTIZED].into_iter().find(|p| format == p.name);
    let packing =
        packing.ok_or_else(|| format!("its format is {format}; bantam reads pack-quantized and int-quantized"))?;
    let groups = config["config_groups"].as_object().ok_or("there are no config_groups")?;
    for (name, group) in groups {
        let (weights, activations) = (&group["weights"], &group["input_activations"]);
        let wrong = |what: &str| Err(format!("in {name} {what}"));
        let bits = packing.bits;
        if weights["num_bits"] != bits || weights["type"] != "int" || weights["symmetric"] != true {
            return wrong(&format!("the weights are {weights}; bantam reads symmetric integers of {bits} bits here"));
        }
        if weights["actorder"].as_str().is_some_and(|order| order == "group" || order == "dynamic") {
            return wrong("columns are grouped in another order (actorder)");
        }
        match bits {
            4 if !activations.is_null() => {
                return wrong("activations are quantized, which bantam reads with 8 bits only");
            }
            8 if activations["num_bits"] != 8
                || activations["type"] != "int"
                || activations["dynamic"] != true
                || activations["strategy"] != "token"
                || activations["symmetric"] != true =>
            {
                return wrong("activations are not rounded to 8 bits token by token");
            }
            _ => {}
        }
        if !group["output_activations"].is_null() {
            return wrong("outputs are quantized");
        }
    }
    if !config["kv_cache_scheme"].is_null() {
        return Err("its key-value cache is quantized (kv_cache_scheme)".into());
    }
    Ok(packing)
}
