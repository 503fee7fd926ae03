//! Steps per second of training, for `scripts/bench/training_against_pytorch.py`.
//!
//!     training_speed MODEL TOKENS SEQUENCE BATCH THREADS
//!
//! TOKENS is a file of token ids, u32 little endian, `[steps, BATCH, SEQUENCE]`. Prints a line of JSON: the losses, the

use bantam_checkpoint::Checkpoint;
use bantam_nn::Model;
use bantam_nn::train::{AdamW, CrossEntropy, Optimizer, Parameters, Train};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, sequence, batch, threads] = &args[..] else {
        return Err("usage: training_speed MODEL TOKENS SEQUENCE BATCH THREADS".into());
    };
    let (sequence, batch): (usize, usize) = (sequence.parse()?, batch.parse()?);
    rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).use_current_thread().build_global()?;
    let checkpoint = Checkpoint::open(model)?;
    let model = Model::load(&checkpoint)?;
    let mut parameters = Parameters::of(&checkpoint)?;
    let mut optimizer = Optimizer::new(AdamW::default(), &parameters);
    let bytes = std::fs::read(tokens)?;
    let tokens: Vec<u32> = bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for tokens in tokens.chunks_exact(batch * sequence) {
        let start = Instant::now();
        let next = |row: usize| (!(row + 1).is_multiple_of(sequence)).then(|| tokens[row + 1]);
        let targets: Vec<Option<u32>> = (0..tokens.len()).map(next).collect();
        parameters.clear_gradients();
        let mut pass = Train::new(&mut parameters, &vec![sequence; batch]);
        let hidden = model.definition().hidden(&mut pass, tokens);
        losses.push(pass.loss(model.definition().head(), &hidden, &CrossEntropy { targets: &targets }, 1.0));
        pass.backward();
        optimizer.step(&mut parameters, 1e-3);
        seconds.push(start.elapsed().as_secs_f64());
    }
    println!("{}", serde_json::json!({ "losses": losses, "seconds": seconds, "parameters": parameters.trained() }));
    Ok(())
}
