//! The input of one pass of the decoder.

use crate::nn::attention::Segment;

/// The tokens of one pass: sequences packed one behind the other, without padding.
#[derive(Debug, Clone, Copy)]
pub struct PackedTokens<'a> {
    /// Token of every row (N).
    pub ids: &'a [u32],
    /// Position of every row in its sequence (N).
    pub positions: &'a [u32],
    /// Which rows attend to which.
    pub segments: &'a [Segment],
}
