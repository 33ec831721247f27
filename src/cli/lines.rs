//! Progress where there is no terminal: few lines, each of which can stand alone in a log.

use std::time::{Duration, Instant};

/// Time before the first line; each further line waits twice as long as the one before ...
const FIRST: Duration = Duration::from_secs(10);
/// ... up to this.
const LONGEST: Duration = Duration::from_secs(300);

/// One step's lines.
#[derive(Debug)]
pub(super) struct Lines {
    step: String,
    total: Option<u64>,
    done: u64,
    begun: Instant,
    spoken: Instant,
    wait: Duration,
    /// The current state in words.
    pub status: String,
}

impl Lines {
    /// A step that begins now.
    pub fn new(step: &str, total: Option<u64>) -> Lines {
        let now = Instant::now();
        let (step, status) = (step.to_string(), String::new());
        Lines { step, total, done: 0, begun: now, spoken: now, wait: FIRST, status }
    }

    /// Counts `n` more units; returns a line where one is due.
    pub fn advance(&mut self, n: u64, now: Instant) -> Option<String> {
        self.done += n;
        if now.duration_since(self.spoken) < self.wait {
            return None;
        }
        self.spoken = now;
        self.wait = (self.wait * 2).min(LONGEST);
        Some(self.line(now))
    }

    /// The last line of a step, where it has a status.
    pub fn last(&self, now: Instant) -> Option<String> {
        (!self.status.is_empty() && self.done > 0).then(|| self.line(now))
    }

    fn line(&self, now: Instant) -> String {
        let elapsed = now.duration_since(self.begun);
        let mut line = format!("{} {}", self.step, self.done);
        if let Some(total) = self.total {
            let time = left(self.done, total, elapsed).unwrap_or_else(|| clock(elapsed));
            line += &format!("/{total} · {time}");
        }
        if !self.status.is_empty() {
            line += &format!(" · {}", self.status);
        }
        line
    }
}

/// The time that is left of a step, where it can be estimated.
pub(super) fn left(done: u64, total: u64, elapsed: Duration) -> Option<String> {
    let known = done > 0 && done < total;
    known.then(|| format!("{} left", clock(elapsed.mul_f64((total - done) as f64 / done as f64))))
}

/// A duration as hours, minutes and seconds.
pub(super) fn clock(time: Duration) -> String {
    let s = time.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_say_what_is_left() {
        let mut lines = Lines::new("training", Some(1000));
        let at = |s| lines.begun + Duration::from_secs(s);
        let times: Vec<Instant> = (1..=1000).map(at).collect();
        lines.status = "loss 0.5".into();
        let spoken: Vec<String> = times.iter().filter_map(|now| lines.advance(1, *now)).collect();
        assert_eq!(spoken[0], "training 10/1000 · 16m30s left · loss 0.5");
        assert!(spoken[1].starts_with("training 30/1000 · "), "{spoken:?}");
        assert!((5..=8).contains(&spoken.len()), "{spoken:?}");
        let end = lines.last(times[999]).unwrap();
        assert_eq!(end, "training 1000/1000 · 16m40s · loss 0.5");
        assert_eq!(Lines::new("x", None).last(Instant::now()), None);
        assert_eq!(clock(Duration::from_secs(7384)), "2h03m");
    }
}
