//! The end of a sweep: tables, manifest, report.

use std::collections::BTreeMap;
use std::path::Path;

use super::summary::{Baselines, summarize, write_summary};
use super::tables::{self, STATUS_OK};
use super::{Cell, CellRecord, Sweep, SweepOutcome, curves, grid};
use crate::error::Result;
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::schema::sweep::{CURVES, RESULTS, SUMMARY};

impl Sweep<'_> {
    /// The manifest of a launch, at its start.
    pub(super) fn manifest(&self) -> Result<Manifest> {
        Manifest::begin("noise-sweep", &(self.config, &self.settings))
    }

    /// Writes the tables of these cells, the manifest and the report. The outcome counts no cells.
    pub(super) fn publish(
        &self,
        rows: &[Cell],
        done: &BTreeMap<String, CellRecord>,
        mut manifest: Manifest,
        progress: &dyn Progress,
    ) -> Result<SweepOutcome> {
        let results = tables::results(rows, done, self.base);
        tables::write_results(&self.out.join(RESULTS), &results)?;
        let (codes, seed) = (grid::numbers_of_codes(self.config, self.base), self.config.noise_seeds[0]);
        let baselines = Baselines { named: &self.config.baseline, codes: &codes, base: self.base, seed };
        let summary = summarize(&results, self.out, &baselines, &|line| progress.warn(line))?;
        write_summary(&self.out.join(SUMMARY), &summary)?;
        let curves = curves::curves(&results);
        curves::write_curves(&self.out.join(CURVES), &curves)?;
        for name in [RESULTS, SUMMARY, CURVES] {
            manifest.output(self.out, name, None)?;
        }
        for (i, &seed) in self.config.noise_seeds.iter().enumerate() {
            let key = if i == 0 { "noise".to_string() } else { format!("noise {}", i + 1) };
            manifest.seeds.insert(key, seed);
        }
        let runs = tables::runs(&results);
        manifest.fact("cells_failed", runs.iter().filter(|r| r.failed()).count())?;
        manifest.fact("cells_missing", runs.iter().filter(|r| !r.failed() && r.status != STATUS_OK).count())?;
        if !says_the_same(self.out, &manifest) {
            manifest.finish(self.out)?;
        }
        // After the manifest, which the report shows.
        crate::report::write(self.out)?;
        let folder = self.out.to_path_buf();
        Ok(SweepOutcome { folder, cells_run: 0, cells_reused: 0, results, summary, curves })
    }
}

/// Whether the manifest in the folder differs from this one in command and time alone: it is kept then, so that the same
/// cells make the same files, the report too.
fn says_the_same(folder: &Path, now: &Manifest) -> bool {
    Manifest::read(folder).is_ok_and(|old| {
        (old.tool == now.tool && old.config_hash == now.config_hash)
            && (old.outputs == now.outputs && old.seeds == now.seeds && old.facts == now.facts)
            && !old.finished.is_empty()
    })
}
