//! Code posteriors of every pair under a trained policy (`posteriors.parquet`), and what each code does
//! (`codes.parquet`).
//!
//! `posteriors.parquet` has one row for each examined pair, in the order of the token files. The column `margin` is
//! computed with the prior's z. Columns of the posterior are computed from the observed label, and measure nothing
//! that is to be predicted from the prompt.

pub mod bayes;
pub mod codes;
pub mod evaluation;
mod frame;
mod margins;
mod part;
mod split_examples;
mod table;
pub mod usage;
pub mod validation;

pub use bayes::{PosteriorContext, add_posteriors};
pub use frame::FrameBuilder;
pub use margins::{LabelFindings, Margins};
pub use part::{ExaminedPart, ExaminedParts, ranges};
pub use split_examples::SplitExamples;
pub use table::{batch, schema, write};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact;
    use crate::lpc::LpcConfig;
    use crate::objective::{ObjectiveConfig, ObjectiveKind};
    use crate::policy::Example;
    use crate::schema::{col, posterior};
    use crate::token_file::TokenRow;

    #[test]
    fn rows_are_written_with_margins_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("posteriors.parquet");
        let rows = [TokenRow {
            id: "a".into(),
            prompt_id: "p".into(),
            prompt_ids: vec![1].into(),
            chosen_ids: vec![1, 2].into(),
            rejected_ids: vec![3].into(),
            ..TokenRow::default()
        }];
        let examples = [Example {
            prior: vec![0.25, 0.75],
            posterior: vec![0.5, 0.5],
            logps: (-3.0, -4.0),
            logps_posterior: (-2.0, -4.0),
            ..Example::default()
        }];
        let split = SplitExamples { split: "test", rows: &rows, examples: &examples, reference: Some(&[(-3.5, -3.0)]) };
        let lpc = LpcConfig::default();
        let margins = |name| {
            let objective = ObjectiveConfig { name, ..ObjectiveConfig::default() }.resolved();
            Margins::of(&split, PosteriorContext { objective: &objective, lpc: &lpc, flips: None }).unwrap()
        };
        // beta 0.1: ((-3 + 3.5) - (-4 + 3)) * 0.1 = 0.15; with the posterior ((-2 + 3.5) + 1) * 0.1 = 0.25.
        let dpo = margins(ObjectiveKind::Dpo);
        let got = dpo.of_pairs[0];
        assert!((got.0 - 0.15).abs() < 1e-12 && (got.1 - 0.25).abs() < 1e-12);
        // beta 2: (-3/2 - -4/1) * 2 = 5.
        assert!((margins(ObjectiveKind::Simpo).of_pairs[0].0 - 5.0).abs() < 1e-12);
        let rows = batch(&split, &dpo).unwrap();
        assert_eq!(rows.schema(), schema(&ObjectiveConfig::default()).unwrap());
        write(&path, rows.schema(), &[], [Ok(rows)]).unwrap();
        let file = artifact::read_parquet(&path).unwrap();
        assert_eq!(file.height(), 1);
        let code = file.column(posterior::PRIOR_CODE).unwrap().u32().unwrap().get(0);
        let tie = file.column(posterior::POSTERIOR_CODE).unwrap().u32().unwrap().get(0);
        assert_eq!((code, tie), (Some(1), Some(0)));
        assert_eq!(file.column(col::PROMPT_ID).unwrap().str().unwrap().get(0), Some("p"));
        // The frame has the values of the file.
        let mut frame = FrameBuilder::default();
        frame.push(&split, &dpo).unwrap();
        let frame = frame.finish().unwrap();
        for column in frame.columns() {
            assert!(column.equals(file.column(column.name()).unwrap()), "{}", column.name());
        }
    }
}
