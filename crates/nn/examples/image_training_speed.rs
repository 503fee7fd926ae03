//! Steps per second of training a plain network, for `scripts/bench/training_against_pytorch.py --network`.
//!
//!     image_training_speed NETWORK BATCHES BATCH OPTIMIZER THREADS
//!
//! BATCHES holds, for each step, BATCH images (f32 little endian) and then their classes (u32). OPTIMIZER is `adam` or `sgd`.
//! Prints a line of JSON: the losses and the seconds of each step.

use bantam_checkpoint::Checkpoint;
use bantam_nn::models::mlp::Mlp;
use bantam_nn::train::{AdamW, CrossEntropy, Method, Optimizer, Parameters, Sgd, Train};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [network, batches, batch, optimizer, threads] = &args[..] else {
        return Err("usage: image_training_speed NETWORK BATCHES BATCH OPTIMIZER THREADS".into());
    };
    let batch: usize = batch.parse()?;
    rayon::ThreadPoolBuilder::new().num_threads(threads.parse()?).use_current_thread().build_global()?;
    let checkpoint = Checkpoint::open(network)?;
    let network = Mlp::load(&checkpoint)?;
    let mut parameters = Parameters::of(&checkpoint)?;
    let (method, rate): (Method, f32) = match optimizer.as_str() {
        "adam" => (AdamW::default().into(), 1e-3),
        _ => (Sgd { momentum: 0.9, weight_decay: 0.0 }.into(), 0.01),
    };
    let mut optimizer = Optimizer::new(method, &parameters);
    let words: Vec<[u8; 4]> = std::fs::read(batches)?.as_chunks().0.to_vec();
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for words in words.chunks_exact(batch * (network.inputs() + 1)) {
        let (pixels, classes) = words.split_at(batch * network.inputs());
        let pixels: Vec<f32> = pixels.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let targets: Vec<Option<u32>> = classes.iter().map(|&b| Some(u32::from_le_bytes(b))).collect();
        let start = Instant::now();
        parameters.clear_gradients();
        let mut pass = Train::new(&mut parameters, &[]);
        let x = pass.input(&pixels, network.inputs());
        let hidden = network.hidden(&mut pass, x);
        losses.push(pass.loss(network.head(), &hidden, &CrossEntropy { targets: &targets }, 1.0));
        pass.backward();
        optimizer.step(&mut parameters, rate);
        seconds.push(start.elapsed().as_secs_f64());
    }
    println!("{}", serde_json::json!({ "losses": losses, "seconds": seconds }));
    Ok(())
}
