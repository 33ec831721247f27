//! What the tables of a run are made from.

use polars::chunked_array::builder::ListPrimitiveChunkedBuilder;
use polars::prelude::*;

use super::{Margins, SplitExamples};
use crate::error::Result;
use crate::lpc::usage::hard_code;
use crate::schema::{col, posterior};

/// Collects the columns of `posteriors.parquet` that the tables of a run are made from: split, source, flipped, both
/// codes, both margins, the prior, and the margins of single codes.
#[derive(Default)]
pub struct FrameBuilder {
    pieces: Option<DataFrame>,
}

impl FrameBuilder {
    /// Adds examined pairs behind those that are there.
    ///
    /// # Errors
    /// [`crate::Error::Frame`].
    pub fn push(&mut self, split: &SplitExamples<'_>, margins: &Margins) -> Result<()> {
        let (rows, examples) = (split.rows, split.examples);
        let code = |name: &str, weights: &mut dyn Iterator<Item = &Vec<f32>>| {
            Column::new(name.into(), weights.map(|w| hard_code(w).unwrap_or(0) as u32).collect::<Vec<u32>>())
        };
        let lists = |name: &str, lists: &mut dyn Iterator<Item = &Vec<f32>>| {
            let mut builder =
                ListPrimitiveChunkedBuilder::<Float32Type>::new(name.into(), rows.len(), rows.len(), DataType::Float32);
            lists.for_each(|list| builder.append_slice(list));
            builder.finish().into_series().into_column()
        };
        let columns = vec![
            Column::new(col::SOURCE.into(), rows.iter().map(|r| r.source.as_str()).collect::<Vec<&str>>()),
            Column::new(col::SPLIT.into(), vec![split.split; rows.len()]),
            Column::new(col::FLIPPED.into(), rows.iter().map(|r| r.flipped).collect::<Vec<bool>>()),
            lists(posterior::PRIOR, &mut examples.iter().map(|e| &e.prior)),
            code(posterior::PRIOR_CODE, &mut examples.iter().map(|e| &e.prior)),
            code(posterior::POSTERIOR_CODE, &mut examples.iter().map(|e| &e.posterior)),
            Column::new(col::MARGIN.into(), margins.of_pairs.iter().map(|m| m.0).collect::<Vec<f64>>()),
            Column::new(posterior::MARGIN_POSTERIOR.into(), margins.of_pairs.iter().map(|m| m.1).collect::<Vec<f64>>()),
            lists(col::CODE_MARGINS, &mut margins.of_codes.iter()),
        ];
        let frame = DataFrame::new(rows.len(), columns)?;
        match &mut self.pieces {
            Some(pieces) => {
                pieces.vstack_mut_owned(frame)?;
            }
            None => self.pieces = Some(frame),
        }
        Ok(())
    }

    /// All that was added.
    ///
    /// # Errors
    /// As [`FrameBuilder::push`].
    pub fn finish(mut self) -> Result<DataFrame> {
        if self.pieces.is_none() {
            let none = SplitExamples { split: "", rows: &[], examples: &[], reference: None };
            self.push(&none, &Margins::default())?;
        }
        let mut frame = self.pieces.unwrap_or_default();
        frame.rechunk_mut_par();
        Ok(frame)
    }
}
