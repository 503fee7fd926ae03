//! What a network's weights are before it is trained.

use crate::Error;
use crate::narrow::largest;
use bantam_checkpoint::{GgufWriter, Metadata, TensorInfo, Value};
use bantam_formats::Format;
use bantam_nn::models::mlp::ARCHITECTURE;
use bantam_nn::random::SplitMix64;
use bantam_nn::train::Parameters;
use std::path::Path;

/// The weights `[outputs, inputs]` and biases `[outputs]` of a layer.
type Layer = (Vec<f32>, Vec<f32>);

/// Writes a network of these widths (input first, classes last) with random weights, uniform and as large as keeps the
/// values' size through rectifiers (He et al. 2015), and biases 0.
///
/// # Errors
/// If the file cannot be written.
pub fn random(path: &Path, widths: &[usize], seed: u64) -> Result<(), Error> {
    let mut random = SplitMix64::new(seed);
    let layers = widths.windows(2).map(|w| {
        let bound = (6.0 / w[0] as f64).sqrt();
        let weights = (0..w[0] * w[1]).map(|_| ((2.0 * random.unit() - 1.0) * bound) as f32).collect();
        (weights, vec![0.0; w[1]])
    });
    write(path, widths, layers)
}

/// Writes a network of these widths that is a wider one's with so many units of each hidden layer, those with the largest
/// weights (the product of the norms of what a unit reads and writes with, as in [`crate::narrow`]).
///
/// # Errors
/// If the file cannot be written.
pub fn narrowed(path: &Path, widths: &[usize], wider: &Parameters) -> Result<(), Error> {
    let count = widths.len() - 1;
    let part = |layer: usize, kind: &str| {
        &wider.get(&format!("{}.{kind}", stem(layer, count))).expect("a layer has it").values
    };
    let mut inputs: Vec<usize> = (0..widths[0]).collect();
    let mut layers = Vec::with_capacity(count);
    let mut read_by = widths[0];
    for layer in 0..count {
        let (weights, biases) = (part(layer, "weight"), part(layer, "bias"));
        let units = if layer + 1 == count {
            (0..biases.len()).collect()
        } else {
            largest(&unit_weights(weights, part(layer + 1, "weight"), biases.len()), widths[layer + 1])
        };
        let row = |&unit: &usize| inputs.iter().map(move |&i| (unit, i));
        let kept = units.iter().flat_map(row).map(|(unit, i)| weights[unit * read_by + i]).collect();
        layers.push((kept, units.iter().map(|&unit| biases[unit]).collect()));
        (inputs, read_by) = (units, biases.len());
    }
    write(path, widths, layers.into_iter())
}

/// Of each of `units` the norm of its row of `reads` times that of its column of `writes`.
fn unit_weights(reads: &[f32], writes: &[f32], units: usize) -> Vec<f64> {
    let square = |v: &f32| f64::from(*v) * f64::from(*v);
    let rows = reads.chunks_exact(reads.len() / units).map(|row| row.iter().map(square).sum::<f64>());
    let mut columns = vec![0.0; units];
    for row in writes.chunks_exact(units) {
        columns.iter_mut().zip(row).for_each(|(column, v)| *column += square(v));
    }
    rows.zip(columns).map(|(row, column)| (row * column).sqrt()).collect()
}

/// What the tensors of a layer are called; the last is the output.
fn stem(layer: usize, count: usize) -> String {
    if layer + 1 == count { "output".to_owned() } else { format!("layers.{layer}") }
}

fn write(path: &Path, widths: &[usize], layers: impl Iterator<Item = Layer>) -> Result<(), Error> {
    let format = Format::f32();
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String(ARCHITECTURE.to_owned()));
    let tensors = |(i, w): (usize, &[usize])| {
        let stem = stem(i, widths.len() - 1);
        let tensor = |name, shape| TensorInfo { name: format!("{stem}.{name}"), shape, format };
        [tensor("weight", vec![w[1], w[0]]), tensor("bias", vec![w[1]])]
    };
    let tensors: Vec<TensorInfo> = widths.windows(2).enumerate().flat_map(tensors).collect();
    let mut writer = GgufWriter::create(path, &metadata, &tensors)?;
    for (weights, biases) in layers {
        writer.write(bytemuck::cast_slice(&weights))?;
        writer.write(bytemuck::cast_slice(&biases))?;
    }
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_checkpoint::Checkpoint;

    fn read(path: &Path) -> Parameters {
        Parameters::of(&Checkpoint::open(path).unwrap()).unwrap()
    }

    fn values<'a>(parameters: &'a Parameters, path: &str) -> &'a [f32] {
        &parameters.get(path).expect("a network has it").values
    }

    #[test]
    fn the_units_with_the_largest_weights_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (wide, narrow) = (folder.path().join("wide.gguf"), folder.path().join("narrow.gguf"));
        random(&wide, &[6, 5, 4, 3], 7).unwrap();
        let mut wider = read(&wide);
        let set = |wider: &mut Parameters, path: &str, at: &[usize], value: f32| {
            let variable = wider.variables_mut().iter_mut().find(|v| v.path == path).unwrap();
            at.iter().for_each(|&i| variable.values[i] = value);
        };
        // Unit 1 of the first hidden layer reads little; unit 2 of the second writes little.
        set(&mut wider, "layers.0.weight", &[6, 7, 8, 9, 10, 11], 1e-9);
        set(&mut wider, "output.weight", &[2, 6, 10], 1e-9);
        set(&mut wider, "layers.0.bias", &[0, 2, 3, 4], 0.5);
        set(&mut wider, "layers.1.bias", &[3], 0.25);
        narrowed(&narrow, &[6, 4, 3, 3], &wider).unwrap();
        let narrow = read(&narrow);
        let rows = [0, 2, 3, 4].map(|row| &values(&wider, "layers.0.weight")[row * 6..][..6]);
        assert_eq!(values(&narrow, "layers.0.weight"), rows.concat());
        assert_eq!(values(&narrow, "layers.0.bias"), [0.5; 4]);
        assert_eq!(values(&narrow, "layers.1.bias"), [0.0, 0.0, 0.25]);
        let expected: Vec<f32> = [0, 1, 3]
            .iter()
            .flat_map(|row| [0, 2, 3, 4].map(|column| values(&wider, "layers.1.weight")[row * 5 + column]))
            .collect();
        assert_eq!(values(&narrow, "layers.1.weight"), expected);
        let pick = |row: usize| [0, 1, 3].map(|column| values(&wider, "output.weight")[row * 4 + column]);
        assert_eq!(values(&narrow, "output.weight"), [pick(0), pick(1), pick(2)].concat());
    }
}
