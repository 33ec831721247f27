//! Surveys over all buckets, for decisions on single pairs that depend on all of them.

use polars::prelude::DataFrame;

use super::finished::FinishedBuckets;
use super::work::stop_if_asked;
use crate::error::Result;
use crate::noise;
use crate::pairs::{Finished, near};
use crate::progress::Progress;
use crate::select::mix::{CapPlan, Mix};

/// The results of all surveys.
pub struct Plans {
    /// Which prompts are near duplicates of others.
    pub near: Option<near::NearPlan>,
    /// Which pairs of capped inputs stay.
    pub caps: Option<CapPlan>,
    pub noise: noise::NoisePlan,
}

impl Plans {
    /// Makes the surveys that the settings ask for, each on the pairs that the plans before it keep.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where a setting applies to none of the pairs; [`crate::Error::Io`].
    pub fn survey(finished: &FinishedBuckets<'_>, mix: &Mix, progress: &dyn Progress) -> Result<Plans> {
        let (pairs, noise) = (&finished.config.pairs, &finished.config.noise);
        let mut plans = Plans { near: None, caps: None, noise: noise::NoisePlan::direct(noise) };
        if pairs.near_duplicates > 0.0 {
            let mut survey = near::NearSurvey::new(pairs.near_duplicates);
            plans.each(finished, progress, "look for near duplicates", |clean| survey.add(&clean))?;
            plans.near = Some(survey.finish());
        }
        if let Some(mut survey) = mix.survey() {
            plans.each(finished, progress, "survey for caps", |clean| survey.add(&clean))?;
            plans.caps = Some(survey.finish());
        }
        if noise.needs_survey() {
            let mut survey = noise::NoiseSurvey::new(noise, finished.seed);
            plans.each(finished, progress, "survey for noise", |clean| survey.add(&clean))?;
            plans.noise = survey.finish()?;
        }
        Ok(plans)
    }

    /// The pairs of a bucket in their final order, without those that the plans drop.
    pub fn clean(&self, finished: &FinishedBuckets<'_>, bucket: usize) -> Result<Finished> {
        let mut clean = finished.read(bucket)?;
        if let Some(near) = &self.near {
            let (kept, dropped) = near.apply(clean.frame, finished.labels)?;
            clean.frame = kept;
            clean.drops.extend(dropped);
        }
        if let Some(caps) = &self.caps {
            let (kept, dropped) = caps.apply(clean.frame)?;
            clean.frame = kept;
            clean.drops.extend(dropped);
        }
        Ok(clean)
    }

    /// Passes the clean pairs of one bucket after the other to `take`.
    fn each(
        &self,
        finished: &FinishedBuckets<'_>,
        progress: &dyn Progress,
        what: &str,
        mut take: impl FnMut(DataFrame) -> Result<()>,
    ) -> Result<()> {
        progress.begin(what, Some(finished.buckets.rows()));
        for bucket in 0..finished.buckets.len() {
            let Some(rows) = finished.buckets.rows_of(bucket) else { continue };
            take(self.clean(finished, bucket)?.frame)?;
            progress.advance(rows);
            stop_if_asked(progress)?;
        }
        progress.end();
        Ok(())
    }
}
