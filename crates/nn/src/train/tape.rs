//! The tape: values as the forward pass makes them, and what brings gradients back through them.

use super::Parameters;
use crate::tensor::{Pool, Tensor};
use std::ops::Deref;
use std::sync::Arc;

/// A value of the forward pass. Layers that need it for their gradient keep a share; when none is left its memory is reused.
#[derive(Clone)]
pub struct Var {
    pub(super) id: usize,
    value: Arc<Tensor>,
}

impl Var {
    /// The value itself: moved where this was the only share, else copied.
    pub(super) fn into_value(self, pool: &Pool) -> Tensor {
        Arc::try_unwrap(self.value).unwrap_or_else(|shared| {
            let mut copy = pool.take(shared.rows(), shared.cols());
            copy.copy_from_slice(&shared);
            copy
        })
    }
}

impl Deref for Var {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.value
    }
}

/// The backward half of a layer, with what it keeps of the forward pass.
pub(super) trait Node: Send {
    /// From the gradient of its output: adds to the gradients of its inputs and its parameters.
    fn backward(self: Box<Self>, gradient: Tensor, to: &mut Backward<'_>);
}

/// Where gradients go.
pub(super) struct Backward<'a> {
    pub parameters: &'a mut Parameters,
    pub pool: &'a Pool,
    gradients: &'a mut Vec<Option<Tensor>>,
    nodes: &'a [Option<Box<dyn Node>>],
}

impl Backward<'_> {
    /// Adds `gradient` to that of a value.
    pub fn give(&mut self, id: usize, gradient: Tensor) {
        match &mut self.gradients[id] {
            Some(sum) => super::vector::add_rows(sum, &gradient),
            empty => *empty = Some(gradient),
        }
    }

    /// Whether a gradient of this value goes anywhere.
    pub fn wants(&self, id: usize) -> bool {
        self.nodes[id].is_some()
    }

    /// Lets `write` write or add a gradient of a value: the second argument says that it must add.
    pub fn write(
        &mut self,
        id: usize,
        rows: usize,
        cols: usize,
        write: impl FnOnce(&mut [f32], bool, &mut Parameters),
    ) {
        match &mut self.gradients[id] {
            Some(sum) => write(sum, true, self.parameters),
            empty => {
                let mut gradient = self.pool.take(rows, cols);
                write(&mut gradient, false, self.parameters);
                *empty = Some(gradient);
            }
        }
    }
}

/// The record of one forward pass.
#[derive(Default)]
pub(super) struct Tape {
    /// The node that made each value; none for those from outside.
    nodes: Vec<Option<Box<dyn Node>>>,
    gradients: Vec<Option<Tensor>>,
}

impl Tape {
    /// Notes a value that `node` made.
    pub fn push(&mut self, value: Tensor, node: impl Node + 'static) -> Var {
        self.note(value, Some(Box::new(node)))
    }

    /// Notes a value from outside, which takes no gradient.
    pub fn input(&mut self, value: Tensor) -> Var {
        self.note(value, None)
    }

    fn note(&mut self, value: Tensor, node: Option<Box<dyn Node>>) -> Var {
        self.nodes.push(node);
        self.gradients.push(None);
        Var { id: self.nodes.len() - 1, value: Arc::new(value) }
    }

    /// Whether a gradient of this value goes anywhere.
    pub fn wants(&self, id: usize) -> bool {
        self.nodes[id].is_some()
    }

    /// Sets off a gradient.
    pub fn give(&mut self, id: usize, gradient: Tensor, parameters: &mut Parameters, pool: &Pool) {
        Backward { parameters, pool, gradients: &mut self.gradients, nodes: &self.nodes }.give(id, gradient);
    }

    /// Brings all gradients back to the parameters, last value first. The tape is empty afterwards.
    pub fn backward(&mut self, parameters: &mut Parameters, pool: &Pool) {
        while let Some(node) = self.nodes.pop() {
            let gradient = self.gradients.pop().expect("a gradient's place for each node");
            if let (Some(node), Some(gradient)) = (node, gradient) {
                let to = &mut Backward { parameters, pool, gradients: &mut self.gradients, nodes: &self.nodes };
                node.backward(gradient, to);
            }
        }
    }
}
