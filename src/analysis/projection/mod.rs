//! Posteriors in the plane: which pairs have like posteriors, and whether labels separate them.

pub mod pca;
pub mod points;
pub mod tsne;

use polars::prelude::*;
use rand::Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::agreement::{ami, nmi};
use super::codes::Labels;
use super::tables::{codes, flags, texts, weights};
use crate::error::Result;
use crate::schema::{col, posterior, projection};
use crate::seed::Seed;
use points::{Points, silhouettes};

/// Perplexity of the layout, where there are points enough for it.
pub const PERPLEXITY: f64 = 30.0;

/// Pairs that are laid out at most: every step compares all points with each other.
pub const MOST_POINTS: usize = 5000;

/// Pairs below which nothing is laid out.
pub const LEAST_POINTS: usize = 10;

/// Size of the start of a layout: standard deviation of its first coordinate.
const START: f64 = 1e-4;

/// Standard deviation of the noise on it, in that unit: points on a line would stay on it.
const JITTER: f64 = 0.01;

/// How posteriors are projected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// t-SNE, started from the principal components, which are given too.
    #[default]
    Tsne,
    /// Principal components alone.
    Pca,
    /// Not at all.
    None,
}

/// How the points of one labelling lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Colour {
    /// What the labels are: `source`, `flipped`, ...
    pub label: String,
    /// Points with a label.
    pub n: u64,
    /// Labels that occur among the points.
    pub labels: u64,
    /// Mean silhouette of the labels in the space of the posteriors, not in the plane; `None` with fewer than two labels.
    pub silhouette: Option<f64>,
    /// Normalised mutual information of label and posterior code on these points; `None` where one is constant.
    pub nmi: Option<f64>,
    /// The same, adjusted for chance.
    pub ami: Option<f64>,
    /// Label of each point.
    #[serde(skip)]
    pub points: Labels,
}

/// Posteriors in the plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// How they were projected.
    pub method: Method,
    /// Points: a sample where there are more pairs.
    pub n: u64,
    /// Pairs of the run.
    pub pairs: u64,
    /// Share of the variance along the two principal components.
    pub explained: [f64; 2],
    /// Perplexity of t-SNE.
    pub perplexity: Option<f64>,
    /// KL that t-SNE reached, nats.
    pub kl: Option<f64>,
    /// By labelling.
    pub colours: Vec<Colour>,
    /// Coordinates of each point on the principal components.
    #[serde(skip)]
    pub pca: Vec<[f64; 2]>,
    /// Coordinates of each point by t-SNE; empty without.
    #[serde(skip)]
    pub tsne: Vec<[f64; 2]>,
    /// Row of each point in the posteriors.
    #[serde(skip)]
    pub rows: Vec<usize>,
}

/// The rows that are laid out: all, or those `at_most` whose hash of (seed, id) is smallest, in their order.
fn sample(ids: &[String], at_most: usize, seed: Seed) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..ids.len()).collect();
    if rows.len() > at_most {
        rows.sort_by_cached_key(|&row| (seed.word("projection", &ids[row]), &ids[row]));
        rows.truncate(at_most);
        rows.sort_unstable();
    }
    rows
}

/// Lays out the posteriors of at most `at_most` pairs, and measures how far `labels` (one entry for each row) separate
/// them. `step` is called after each step of t-SNE.
///
/// Distances are Euclidean between the posterior probabilities as they are. `None` where the file has no posteriors over
/// codes, where fewer than [`LEAST_POINTS`] rows are there, where all posteriors are the same, and with [`Method::None`].
///
/// # Errors
/// [`crate::Error::Frame`] where a column is missing or of another type, [`crate::Error::Run`] where a row holds no
/// distribution.
pub fn project(
    posteriors: &DataFrame,
    labels: &[(String, Labels)],
    method: Method,
    at_most: usize,
    seed: Seed,
    step: &dyn Fn(),
) -> Result<Option<Projection>> {
    if method == Method::None {
        return Ok(None);
    }
    let Some((all, dimensions)) = weights(posteriors, posterior::POSTERIOR)? else { return Ok(None) };
    let ids = texts(posteriors, col::ID)?;
    let rows = sample(&ids, at_most, seed);
    let values = rows.iter().flat_map(|&row| &all[row * dimensions..(row + 1) * dimensions]);
    let points = Points::new(values.copied().collect(), dimensions);
    if points.len() < LEAST_POINTS {
        return Ok(None);
    }
    let Some(components) = pca::pca(&points) else { return Ok(None) };
    let code = codes(posteriors, posterior::POSTERIOR_CODE)?;
    let colours = colours(&points, &rows, &code, labels);
    let perplexity = PERPLEXITY.min((points.len() - 1) as f64 / 3.0);
    let laid_out = (method == Method::Tsne).then(|| {
        let own: Vec<&str> = rows.iter().map(|&row| ids[row].as_str()).collect();
        tsne::tsne(&points, perplexity, &start(&components.coordinates, &own, seed), step)
    });
    Ok(Some(Projection {
        method,
        n: rows.len() as u64,
        pairs: ids.len() as u64,
        explained: components.explained,
        perplexity: laid_out.as_ref().map(|_| perplexity),
        kl: laid_out.as_ref().map(|layout| layout.kl),
        colours,
        pca: components.coordinates,
        tsne: laid_out.map_or_else(Vec::new, |layout| layout.coordinates),
        rows,
    }))
}

/// The start of t-SNE: the principal components, scaled down, with noise that is a function of (seed, id).
fn start(components: &[[f64; 2]], ids: &[&str], seed: Seed) -> Vec<[f64; 2]> {
    let deviation = (components.iter().map(|c| c[0] * c[0]).sum::<f64>() / components.len() as f64).sqrt();
    let place = |(component, id): (&[f64; 2], &&str)| {
        let mut rng = seed.rng("t-SNE start", id);
        component.map(|x| START * (x / deviation + JITTER * rng.sample::<f64, _>(StandardNormal)))
    };
    components.iter().zip(ids).map(place).collect()
}

fn colours(points: &Points, rows: &[usize], code: &[u32], labels: &[(String, Labels)]) -> Vec<Colour> {
    let own: Vec<Labels> = labels
        .iter()
        .map(|(_, labels)| Labels {
            names: labels.names.clone(),
            rows: rows.iter().map(|&row| labels.rows.get(row).copied().flatten()).collect(),
        })
        .collect();
    let of_points: Vec<&[Option<usize>]> = own.iter().map(|labels| labels.rows.as_slice()).collect();
    let silhouettes = silhouettes(points, &of_points);
    let colour = |(((name, _), own), silhouette): ((&(String, Labels), Labels), Option<f64>)| {
        let labelled = rows.iter().zip(&own.rows).filter_map(|(&row, label)| Some((code[row], (*label)? as u32)));
        let (a, b): (Vec<u32>, Vec<u32>) = labelled.unzip();
        let distinct = |values: &[u32]| values.iter().collect::<std::collections::BTreeSet<_>>().len();
        let informative = distinct(&a) > 1 && distinct(&b) > 1;
        Colour {
            label: name.clone(),
            n: a.len() as u64,
            labels: distinct(&b) as u64,
            silhouette,
            nmi: informative.then(|| nmi(&a, &b)),
            ami: informative.then(|| ami(&a, &b)),
            points: own,
        }
    };
    labels.iter().zip(own).zip(silhouettes).map(colour).collect()
}

impl Projection {
    /// The coordinates as a table, one row a point: `id`, `split`, `source`, `flipped`, `pca_1`, `pca_2`, and `tsne_1`,
    /// `tsne_2`, which are null without t-SNE.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where a column of `posteriors` is missing or of another type, [`crate::Error::Run`] where a
    /// value is missing.
    pub fn frame(&self, posteriors: &DataFrame) -> Result<DataFrame> {
        let text = |name: &str| -> Result<Column> {
            let all = texts(posteriors, name)?;
            Ok(Column::new(name.into(), self.rows.iter().map(|&row| all[row].as_str()).collect::<Vec<_>>()))
        };
        let flipped = flags(posteriors, col::FLIPPED)?;
        let flipped: Vec<bool> = self.rows.iter().map(|&row| flipped[row]).collect();
        let along = |name: &str, coordinates: &[[f64; 2]], at: usize| {
            let values: Vec<Option<f64>> = (0..self.rows.len()).map(|i| Some(coordinates.get(i)?[at])).collect();
            Column::new(name.into(), values)
        };
        let columns = vec![
            text(col::ID)?,
            text(col::SPLIT)?,
            text(col::SOURCE)?,
            Column::new(col::FLIPPED.into(), flipped),
            along(projection::PCA_1, &self.pca, 0),
            along(projection::PCA_2, &self.pca, 1),
            along(projection::TSNE_1, &self.tsne, 0),
            along(projection::TSNE_2, &self.tsne, 1),
        ];
        Ok(DataFrame::new(self.rows.len(), columns)?)
    }
}

#[cfg(test)]
mod tests;
