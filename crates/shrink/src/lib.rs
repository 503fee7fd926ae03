//! Shrink steps: functions from checkpoint to checkpoint.
//!
//! A step reads tensors lazily, writes them streamed, and records in the output's metadata what it did
//! (`bantam.provenance`). Where to start: [`quantize`] for the step, [`mix`] for which tensor gets which format.
//!
//! Invariant: what a step writes does not depend on threads, nor on time unless a speed is asked for, which [`allocate::Speed`] times here.
//! Memory: steps that round, widen or take over weights decode them part by part; [`train`], [`distill`] and [`tune`] hold the whole
//! model in F32 beside its gradients, and [`allocate`] a model that is packed already in half precision.

pub mod allocate;
pub mod calibrate;
pub mod distill;
pub mod error;
pub mod estimate;
pub mod generate;
pub mod identity;
pub mod images;
mod lines;
pub mod mix;
pub mod narrow;
pub mod quantize;
mod records;
pub mod students;
pub mod text;
pub mod train;
pub mod tune;
pub mod widen;

pub use error::Error;
pub use mix::Mix;
