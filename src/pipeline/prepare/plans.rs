//! What must be known of all pairs before the first can be decided: surveys over all buckets.

use polars::prelude::DataFrame;

use super::PrepareConfig;
use super::mix::{CapPlan, Mix};
use super::spill::Buckets;
use crate::error::Result;
use crate::noise;
use crate::pairs::{self, Finished, near};
use crate::progress::Progress;
use crate::seed::Seed;

/// The results of all surveys.
pub struct Plans {
    /// Which prompts are nearly others.
    pub near: Option<near::Plan>,
    /// Which pairs of capped inputs stay.
    pub caps: Option<CapPlan>,
    /// The noise's constants.
    pub noise: noise::Plan,
}

/// What surveys are made with.
pub struct Desk<'a> {
    /// Settings.
    pub config: &'a PrepareConfig,
    /// The run's seed.
    pub seed: Seed,
    /// Input files by index, for words.
    pub labels: &'a [String],
    /// All pairs.
    pub buckets: &'a Buckets<'a>,
    /// Told of every bucket.
    pub progress: &'a dyn Progress,
}

/// The pairs of one bucket as they go into the noise.
pub struct Clean {
    /// In their final order.
    pub frame: DataFrame,
    /// Pairs that do not go on.
    pub drops: Vec<crate::rejects::Reject>,
    /// Pairs that another one contradicts.
    pub conflicts: u64,
    /// One of the contradictions, in words.
    pub conflict: String,
}

impl Plans {
    /// Surveys the buckets as far as the settings ask for it, each survey after what it depends on.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where a setting can say nothing about any of the pairs; [`crate::Error::Io`].
    pub fn survey(desk: &Desk<'_>, mix: &Mix) -> Result<Plans> {
        let (pairs, noise) = (&desk.config.pairs, &desk.config.noise);
        let mut plans = Plans { near: None, caps: None, noise: noise::Plan::direct(noise) };
        if pairs.near_duplicates > 0.0 {
            let mut survey = near::Survey::new(pairs.near_duplicates);
            plans.each(desk, "look for near duplicates", |clean| survey.add(&clean))?;
            plans.near = Some(survey.finish());
        }
        if let Some(mut survey) = mix.survey() {
            plans.each(desk, "survey for caps", |clean| survey.add(&clean))?;
            plans.caps = Some(survey.finish());
        }
        if noise.needs_survey() {
            let mut survey = noise::Survey::new(noise, desk.seed);
            plans.each(desk, "survey for noise", |clean| survey.add(&clean))?;
            plans.noise = survey.finish()?;
        }
        Ok(plans)
    }

    /// The pairs of a bucket in their final order, without those that the settings drop.
    ///
    /// # Errors
    /// [`crate::Error::Frame`].
    pub fn clean(
        &self,
        frames: Vec<DataFrame>,
        config: &PrepareConfig,
        seed: Seed,
        labels: &[String],
    ) -> Result<Clean> {
        let finished = pairs::finish(frames, &config.pairs, seed, labels)?;
        let Finished { mut frame, mut drops, conflicts, conflict } = finished;
        if let Some(near) = &self.near {
            let (kept, dropped) = near.apply(frame, labels)?;
            frame = kept;
            drops.extend(dropped);
        }
        if let Some(caps) = &self.caps {
            let (kept, dropped) = caps.apply(frame)?;
            frame = kept;
            drops.extend(dropped);
        }
        Ok(Clean { frame, drops, conflicts, conflict })
    }

    /// Hands over the clean pairs of one bucket after the other.
    fn each(&self, desk: &Desk<'_>, what: &str, mut take: impl FnMut(DataFrame) -> Result<()>) -> Result<()> {
        let Desk { config, seed, labels, buckets, progress } = *desk;
        progress.begin(what, Some(buckets.rows()));
        for bucket in 0..buckets.len() {
            let Some(rows) = buckets.rows_of(bucket) else { continue };
            take(self.clean(buckets.read(bucket)?, config, seed, labels)?.frame)?;
            progress.advance(rows);
            super::stop_if_asked(progress)?;
        }
        progress.end();
        Ok(())
    }
}
