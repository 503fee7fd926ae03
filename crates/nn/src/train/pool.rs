//! One row of each sequence.

use super::tape::{Backward, Node};
use crate::sequences::Layout;
use crate::tensor::Tensor;
use bantam_checkpoint::config::Pooling;

/// A sequence's mean, first or last row.
pub(super) struct PoolRows {
    pub pooling: Pooling,
    pub x: usize,
    pub layout: Layout,
}

impl Node for PoolRows {
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        to.give(self.x, self.layout.pool_backward(self.pooling, &dy, to.pool));
    }
}
