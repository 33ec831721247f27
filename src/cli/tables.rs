//! Results as text for people.

mod audit;
mod codes;
mod eval;
mod generate;
mod launch;
mod sweep;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::bar::{cut, significant, stdout_columns};
use super::lines::clock;
use crate::pipeline::demo::DemoSummary;
use crate::pipeline::export::ExportSummary;
use crate::pipeline::planted::{GroupScores, PlantedScores};
use crate::pipeline::prepare::PrepareSummary;
use crate::pipeline::recipe::export::ExportAs;
use crate::pipeline::recipe::shipped::Shipped;
use crate::pipeline::score::ScoreSummary;
use crate::pipeline::train::{DryRun, RunSummary};
use crate::report::visible;
use crate::schema::SPLITS;
use crate::synth::SynthSummary;
pub use audit::audit;
pub use codes::{associations, codes};
pub use eval::eval;
pub use generate::generate;
pub use launch::{cell, collected, launched, shared};
pub use sweep::{sweep, sweep_plan};

/// A table with aligned columns; the first column to the left, the others to the right. On a terminal, names are cut
/// where the table would be too wide.
fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    columns_within(head, rows, stdout_columns())
}

/// A column of a table of items: its name, and the cell of an item.
type Column<'a, T> = (&'a str, &'a dyn Fn(&T) -> String);

/// [`columns`] with a row for each item.
fn table<T>(items: &[T], of: &[Column<'_, T>]) -> String {
    let rows = items.iter().map(|item| of.iter().map(|(_, cell)| cell(item)).collect()).collect::<Vec<_>>();
    columns(&of.iter().map(|(name, _)| *name).collect::<Vec<_>>(), &rows)
}

/// Least width in characters to which names are cut.
const NAME: usize = 12;

fn columns_within(head: &[&str], rows: &[Vec<String>], limit: Option<usize>) -> String {
    // Control characters are written out first, so that they count in the widths.
    let rows: Vec<Vec<String>> = rows.iter().map(|r| r.iter().map(|cell| visible(cell)).collect()).collect();
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..head.len()).map(width).collect();
    let over =
        |widths: &[usize]| limit.is_some_and(|limit| widths.iter().sum::<usize>() + 2 * (head.len() - 1) > limit);
    while over(&widths)
        && let Some(widest) =
            (0..head.len()).filter(|&i| widths[i] > NAME.max(head[i].chars().count())).max_by_key(|&i| widths[i])
    {
        widths[widest] -= 1;
    }
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (i, (cell, width)) in cells.zip(&widths).enumerate() {
            let cell = cut(cell, *width);
            let _ = if i == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut head.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

fn percent(x: f64) -> String {
    if x.is_finite() { format!("{:.1} %", 100.0 * x) } else { "-".into() }
}

/// Two decimals, and below 0.1 two significant digits.
fn rate(x: f64) -> String {
    if x.is_finite() && x > 0.0 && x < 0.1 { significant(x) } else { format!("{x:.2}") }
}

fn range(low: f64, high: f64) -> String {
    format!("{} to {}", percent(low), percent(high))
}

/// A p-value with so many decimals, or how small it is; a dash for what is not a number.
fn p_value(p: Option<f64>, decimals: usize) -> String {
    let least = 1.0 / 10f64.powi(decimals as i32);
    match p.filter(|p| p.is_finite()) {
        None => "-".into(),
        Some(p) if p < least => format!("< {least:.decimals$}"),
        Some(p) => format!("{p:.decimals$}"),
    }
}

fn reasons(out: &mut String, what: &str, counts: &BTreeMap<String, u64>) {
    for (reason, n) in counts {
        let _ = writeln!(out, "  {what}: {n} {reason}");
    }
}

fn maybe(x: Option<f64>) -> String {
    x.map_or_else(|| "-".into(), percent)
}

/// `synth`.
pub fn synth(s: &SynthSummary, out: &str) -> String {
    let shown = percent(s.shown as f64 / s.rows.max(1) as f64);
    let mut out = format!(
        "{out}: {} prompts, {} completions, {} planted preferences; the prompt shows what counts in {shown}\n",
        s.rows,
        s.completions,
        s.by_preference.len(),
    );
    if let Some(over) = &s.over {
        let _ = writeln!(out, "{} rows read, {} kept", over.rows_read, over.rows_kept);
        reasons(&mut out, "rows left out", &over.rejects);
        let unused = &over.unused;
        for (n, why) in [(unused.empty, "empty"), (unused.equal, "equal to another"), (unused.unrated, "not rated")] {
            if n > 0 {
                let _ = writeln!(out, "  responses left out: {n} {why}");
            }
        }
        let count = |(name, n): (&String, &u64)| vec![name.clone(), n.to_string()];
        out.push('\n');
        out += &columns(&["preference", "prompts"], &s.by_preference.iter().map(count).collect::<Vec<_>>());
        out.push('\n');
        out += &columns(&["trait", "prompts that differ in it"], &over.varying.iter().map(count).collect::<Vec<_>>());
    }
    out
}

/// `prepare`.
pub fn prepare(s: &PrepareSummary) -> String {
    let mut rows = Vec::new();
    for (split, sources) in &s.totals.counts {
        for (source, n) in sources {
            rows.push(vec![split.clone(), source.clone(), n.to_string()]);
        }
    }
    let mut out = columns(&["split", "source", "pairs"], &rows);
    let several = if s.pairs == s.rows_kept { String::new() } else { format!("{} rows and ", s.rows_kept) };
    let _ = writeln!(out, "\n{} rows read, {several}{} pairs kept", s.rows_read, s.pairs);
    reasons(&mut out, "rows left out", &s.rejects);
    reasons(&mut out, "pairs dropped", &s.totals.pairs_dropped);
    for line in s.sources.sentences() {
        let _ = writeln!(out, "{line}");
    }
    for o in &s.contamination {
        let _ = writeln!(
            out,
            "benchmark {}: {} of {} items found, {} rows dropped",
            o.benchmark, o.items_found, o.items, o.rows_dropped
        );
    }
    if let Some(near) = &s.near_duplicates {
        let dropped = near.dropped_prompts;
        let _ = writeln!(out, "{dropped} of {} prompts dropped as near duplicates", near.prompts);
    }
    if s.flipped > 0 {
        let _ = writeln!(out, "{} labels flipped ({})", s.flipped, percent(s.realised_flip_rate));
    }
    if s.totals.weighted > 0 {
        let _ = writeln!(out, "{} pairs have a weight of their own in training", s.totals.weighted);
    }
    if s.totals.truncated > 0 {
        let cut = &s.totals.encoding;
        let (prompts, chosen, rejected) = (cut.prompts_cut, cut.chosen_cut, cut.rejected_cut);
        let _ = writeln!(
            out,
            "{} pairs truncated ({prompts} prompts, {chosen} chosen and {rejected} rejected responses)",
            s.totals.truncated
        );
        if prompts > 0 {
            let at = [cut.prompts_cut_at_message, cut.prompts_cut_at_line, cut.prompts_cut_at_token];
            let [message, line, token] = at;
            let _ = writeln!(out, "  prompts cut: {message} at a message, {line} at a line, {token} at a token");
        }
    }
    if s.out.is_empty() {
        let example = serde_json::to_string_pretty(&s.example).unwrap_or_default();
        let _ = writeln!(out, "\none pair:\n{example}");
    } else {
        let _ = writeln!(out, "written: {}", s.out);
    }
    out
}

/// `score`.
pub fn score(s: &ScoreSummary) -> String {
    format!(
        "{}: {} pairs; chosen is likelier in {}; nats per token {:.4} chosen, {:.4} rejected\n",
        s.out,
        s.pairs,
        percent(s.likelier),
        s.per_token.0,
        s.per_token.1,
    )
}

/// `export`.
pub fn export(s: &ExportSummary) -> String {
    let latent = match (s.latent, s.form) {
        (false, _) => "",
        (true, ExportAs::Hf) => {
            "; the latent part beside it is read by lpc-pipe, and by transformers through lpc_transformers.py"
        }
        (true, ExportAs::Peft) => "; the latent part beside it is read by lpc-pipe alone",
    };
    format!("{}: {} files, {:.1} MB{latent}\n", s.out, s.files.len(), s.bytes as f64 / 1e6)
}

/// `recipes`.
pub fn recipes(recipes: &[Shipped]) -> String {
    let width = recipes.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let mut out: String = recipes.iter().map(|r| format!("{:width$}  {}\n", r.name, r.what)).collect();
    out.push_str("\n`lpc-pipe recipes NAME` prints one: its head says what it shows and how it is launched\n");
    out
}

/// `train --dry-run`.
pub fn dry_run(p: &DryRun) -> String {
    let (m, f, t) = (&p.memory_mb, &p.flops, &p.seconds);
    let row = |name: &str, value: String| vec![name.to_string(), value];
    let mib = |name: &str, value: f64| row(name, format!("{value:.0} MiB"));
    let flop = |name: &str, value: f64| row(name, format!("{value:.2e}"));
    let pairs = |n: usize| if n == 1 { "1 pair".to_string() } else { format!("{n} pairs") };
    let time = |name: &str, value: f64| row(name, clock(Duration::from_secs_f64(value.clamp(0.0, 1e9))));
    let mut rows = vec![
        row("parameters", p.parameters.to_string()),
        row("trainable", p.trainable.to_string()),
        row("pairs to train on", p.pairs.to_string()),
        row("pairs to evaluate on", p.pairs_test.to_string()),
        row("reference before the first step", pairs(p.pairs_reference.0)),
        row("reference after the last step", pairs(p.pairs_reference.1)),
        row("pairs in posteriors.parquet", p.pairs_posteriors.to_string()),
        row("steps", p.steps.to_string()),
        row("tokens", p.tokens.to_string()),
        row("tokens in an epoch", p.tokens_per_epoch.to_string()),
        row("of these in responses", p.response_tokens_per_epoch.to_string()),
        row("tokens in the largest pass", p.largest_pass.to_string()),
        row("longest pair, tokens", p.longest.to_string()),
        mib("memory: weights", m.weights),
        mib("memory: gradients", m.gradients),
        mib("memory: moments", m.moments),
        mib("memory: activations", m.activations),
        mib("memory: evaluation (afterwards)", m.evaluation),
        mib("memory: tokens, reference", m.data),
        mib("memory: program", m.program),
        mib("memory: together", m.total),
        row("memory: this machine", p.machine_mb.map_or_else(|| "-".into(), |mb| format!("{mb:.0} MiB"))),
        flop("FLOPs: training", f.training),
        flop("FLOPs: reference", f.reference),
        flop("FLOPs: evaluation", f.evaluation),
        time("time: training", t.training),
        time("time: reference", t.reference),
        time("time: evaluation", t.evaluation),
        time("time: together", t.total),
    ];
    if p.pairs_validation > 0 {
        rows.insert(4, row("pairs of validation", p.pairs_validation.to_string()));
    }
    let mut out = columns(&["what a run would take", ""], &rows);
    let _ = writeln!(
        out,
        "\ntimes by {}: {} GFLOP/s training, {} forward",
        p.speed.how,
        significant(p.speed.training_gflops),
        significant(p.speed.forward_gflops)
    );
    if !p.fits {
        let _ = writeln!(out, "it does not fit into this machine's memory; what would help:");
        p.hints.iter().for_each(|hint| {
            let _ = writeln!(out, "  {hint}");
        });
    }
    out
}

/// `train`.
pub fn run(s: &RunSummary, out: &str) -> String {
    let row = |name: &str, n: u64, accuracy: f64, low: f64, high: f64| {
        vec![name.to_string(), n.to_string(), percent(accuracy), range(low, high)]
    };
    let mut rows = vec![row("all", s.n_eval, s.eval_accuracy, s.eval_accuracy_low, s.eval_accuracy_high)];
    rows.extend(s.by_source.iter().map(|s| row(&s.source, s.n, s.accuracy, s.low, s.high)));
    let mut text = columns(&["test split", "pairs", "accuracy", "95 % interval"], &rows);
    let _ = writeln!(
        text,
        "\n{} with latent {}: {} steps, {} pairs/s, {:.0} MiB peak",
        s.objective,
        s.latent,
        s.steps,
        rate(s.pairs_per_s),
        s.peak_rss_mb
    );
    if s.codes > 1 {
        let _ = writeln!(
            text,
            "codes: {} of {} used by the prior, {} by the posterior; perplexity {:.2}, KL {:.4} nats",
            s.codes_used, s.codes, s.codes_used_posterior, s.code_perplexity, s.kl
        );
    }
    if let Some(rate) = s.mix_flip_rate {
        let _ = writeln!(text, "flip rate of objective mix: {rate:.3}");
    }
    if let Some(rate) = s.repo_clean_rate {
        let _ = writeln!(text, "clean rate of objective repo: {rate:.3}");
    }
    if let Some(rate) = s.hoelder_noise_rate {
        let _ = writeln!(text, "wrong training labels, as objective hoelder estimates: {:.1} %", 100.0 * rate);
    }
    if let Some(auroc) = s.audit_auroc {
        let _ = writeln!(text, "flipped training labels found by the margin: AUROC {auroc:.3}");
    }
    let _ = writeln!(text, "written: {out}");
    text
}

/// Codes against the planted truth, on the test split, each figure beside the generator's ceiling.
pub fn planted(scores: &PlantedScores) -> String {
    let number = |x: f64| format!("{x:.2}");
    let of: [Column<'_, &GroupScores>; 11] = [
        ("prompt", &|g| g.rows.clone()),
        ("pairs", &|g| g.n.to_string()),
        ("prior NMI", &|g| number(g.prior.nmi_preference)),
        ("ceiling", &|g| number(g.prior_ceiling.nmi_preference)),
        ("purity", &|g| number(g.prior.purity_preference)),
        ("posterior NMI", &|g| number(g.posterior.nmi_preference)),
        ("of labels", &|g| number(g.label_ceiling.nmi_preference)),
        ("ceiling", &|g| g.posterior_ceiling.map_or_else(|| "-".into(), |c| number(c.nmi_preference))),
        ("codes", &|g| g.prior.codes_used.to_string()),
        ("accuracy", &|g| percent(g.accuracy)),
        ("ceiling", &|g| percent(g.accuracy_ceiling_expected)),
    ];
    table(&scores.groups.iter().filter(|g| g.split == SPLITS[1]).collect::<Vec<_>>(), &of)
}

/// `demo`.
pub fn demo(s: &DemoSummary) -> String {
    let mut text = String::from("Preference accuracy on held-out pairs against the clean labels\n\n");
    text += &sweep::summary_rows(&s.sweep);
    text += "\nCodes of LPC-DPO against the planted preferences, clean labels\n\n";
    text += &planted(&s.planted);
    let _ = writeln!(
        text,
        "\nDPO {} · LPC-DPO {} on clean labels, {} of {} codes used · {:.0} s in all",
        percent(s.dpo.eval_accuracy),
        percent(s.lpc.eval_accuracy),
        s.lpc.codes_used,
        s.lpc.codes,
        s.seconds
    );
    for report in &s.reports {
        let _ = writeln!(text, "report: {report}");
    }
    let _ = writeln!(text, "posteriors: {}/lpc-dpo/posteriors.parquet", s.out);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_do_not_push_numbers_off() {
        let name = "a-source-with-a-name-that-goes-on-and-on-and-on-and-on-and-on-and-on-and-on";
        let rows = vec![vec![name.to_string(), "120".into(), "55.0 %".into()]];
        let head = ["test split", "pairs", "accuracy"];
        let table = columns_within(&head, &rows, Some(40));
        assert_eq!(table, "test split               pairs  accuracy\na-source-with-a-name-t…    120    55.0 %\n");
        assert!(table.lines().all(|line| line.chars().count() <= 40));
        // Without a terminal, names are not cut.
        assert!(columns_within(&head, &rows, None).contains(name));
    }
}
