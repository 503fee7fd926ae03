//! Distillation: a small student learns from a large teacher.
//!
//! Where to start: [`TextTask`] is what a step learns, [`SoftLabels`] what it minimizes, [`Divergence`] the ways of comparing
//! two distributions, [`Teacher`] where a teacher's word comes from, [`OnPolicy`] has the student write what it learns from. Of encoders [`EmbeddingTask`] is what a step learns,
//! [`EmbeddingMatching`] what it minimizes.

mod cache;
mod divergence;
mod embeddings;
mod encoder_teacher;
mod matching;
mod on_policy;
mod soft_labels;
mod task;
mod teacher;

pub use cache::{Cache, Kept};
pub use divergence::{Divergence, UnknownDivergence};
pub use embeddings::{EmbeddingTask, spread};
pub use encoder_teacher::{EmbeddingCache, EncoderTeacher};
pub use matching::{EmbeddingMatching, States};
pub use on_policy::OnPolicy;
pub use soft_labels::{Soft, SoftLabels};
pub use task::{HiddenMatching, Matching, TextTask};
pub(crate) use teacher::fingerprint;
pub use teacher::{ModelTeacher, Said, Teacher, Told, same_tokens};
