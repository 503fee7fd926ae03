//! The search for a block's scales and quants: least weighted squared error.
//!
//! A block of `w` weighs the squared error of each of its weights ([`weights`]). Given quants, the best scale (and
//! offset) is a small least-squares problem; given scales, the best quants are the nearest. The search tries many
//! scales at once, one a lane ([`lanes`]), solves the least squares for each lane's quants, continues around the
//! best, and ends by comparing exact errors over scales as the format can store them.
//!
//! [`symmetric`] and [`affine`] find the scale of one group; [`superblock`] the two levels of scales of a K-quant;
//! [`together`] the scales of sixteen small blocks at once, one block a lane. [`ternary`] finds the best scale of all. [`units`] stores given scales in two levels.
//! [`points`] finds scales and points of a code book, [`halves`] which points are the best for some weights.
//!
//! Where ggml tries about twenty scales one after the other, weight by weight, here a pass over the weights tries
//! sixteen; that buys refinement at two levels and is still faster.

pub mod affine;
pub mod halves;
pub mod lanes;
pub mod points;
pub mod superblock;
pub mod symmetric;
pub mod ternary;
pub mod together;
pub mod units;
pub mod weights;
