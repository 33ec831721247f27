//! Settings of `--launcher slurm`.

use crate::settings::{Faults, Settings, settings};

/// Options of `sbatch` that the plan of a launch sets itself.
const PLANNED: [&str; 9] =
    ["array", "dependency", "kill-on-invalid-dep", "no-requeue", "open-mode", "parsable", "requeue", "signal", "wrap"];

/// Most seconds that Slurm takes for a signal before the time limit.
const LONGEST_WARNING: u64 = 65_535;

settings! {
    /// What each job asks a Slurm cluster for.
    pub struct SlurmConfig at "slurm" {
        /// Partition; "" is the cluster's default.
        pub partition: String = String::new();
        /// Account that is charged; "" is the user's default.
        pub account: String = String::new();
        /// Time limit of a job, as `sbatch --time` takes it (`90`, `04:00:00`, `1-12`); "" is the partition's. A job that
        /// reaches it is stopped with a checkpoint, requeued and goes on.
        pub time: String = String::new();
        /// Memory of a job, as `sbatch --mem` takes it (`16G`); "" is the cluster's default.
        pub memory: String = String::new();
        /// Processors of a job, and its worker threads.
        pub cpus: usize = 4;
        /// GPUs of a job, as `--gres=gpu:` takes them (`1`, `a100:1`); "" is none. Jobs that only join or tabulate have none.
        pub gpus: String = String::new();
        /// Seconds before the time limit at which a job is told to stop: longer than a step and a checkpoint take.
        pub signal_seconds: u64 = 120;
        /// How often a job is requeued at its time limit; a cell that gets no further fails before.
        pub max_requeues: u64 = 100;
        /// Tasks of the array that run at once; 0 is `sweep.jobs` where that is above 1, else all that the cluster has room
        /// for.
        pub max_parallel: usize = 0;
        /// More options of `sbatch` for every job, such as `--qos=long`.
        pub directives: Vec<String> = vec![];
        /// Lines of shell before the program, such as `module load cuda/12.4`.
        pub setup: Vec<String> = vec![];
    }
}

impl Settings for SlurmConfig {
    fn judge(&self, faults: &mut Faults) {
        let one_word = |text: &str| !text.contains(|c: char| c.is_whitespace() || c.is_control());
        for (key, value) in
            [("partition", &self.partition), ("account", &self.account), ("memory", &self.memory), ("gpus", &self.gpus)]
        {
            faults.check(one_word(value), key, format!("{value:?} has blanks: expected one word"));
        }
        let time = |c: char| c.is_ascii_digit() || c == ':' || c == '-';
        if !self.time.chars().all(time) || (!self.time.is_empty() && !self.time.contains(|c: char| c.is_ascii_digit()))
        {
            let expected = "expected minutes, HH:MM:SS or DAYS-HH:MM:SS";
            faults.add("time", format!("{:?} is no time limit: {expected}", self.time));
        }
        faults.check(self.cpus > 0, "cpus", "expected 1 or more");
        faults.check(
            (1..=LONGEST_WARNING).contains(&self.signal_seconds),
            "signal_seconds",
            format!("{}: expected 1 to {LONGEST_WARNING}", self.signal_seconds),
        );
        for directive in &self.directives {
            let name = directive.strip_prefix("--").and_then(|rest| rest.split(['=', ' ']).next());
            match name {
                Some(name) if PLANNED.contains(&name) => {
                    faults.add("directives", format!("--{name} is set by the plan of the launch"));
                }
                None if ["-a", "-d"].iter().any(|short| directive.starts_with(short)) => {
                    faults.add(
                        "directives",
                        format!("{directive}: array and dependency are set by the plan of the launch"),
                    );
                }
                _ if !directive.starts_with('-') || directive.contains('\n') => {
                    faults
                        .add("directives", format!("{directive:?}: expected an option of sbatch, such as --qos=long"));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: SlurmConfig) -> Vec<String> {
        config.faults().into_iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn what_would_break_a_script_is_refused() {
        assert!(keys(SlurmConfig::default()).is_empty());
        let of = |change: fn(&mut SlurmConfig)| {
            let mut config = SlurmConfig::default();
            change(&mut config);
            keys(config)
        };
        for time in ["90", "04:00:00", "1-12", "2-00:30:00"] {
            assert!(keys(SlurmConfig { time: time.into(), ..SlurmConfig::default() }).is_empty(), "{time}");
        }
        assert_eq!(of(|c| c.time = "2 hours".into()), ["slurm.time"]);
        assert_eq!(of(|c| c.time = "--".into()), ["slurm.time"]);
        assert_eq!(of(|c| c.partition = "a\n#SBATCH --exclusive".into()), ["slurm.partition"]);
        assert_eq!(of(|c| c.cpus = 0), ["slurm.cpus"]);
        assert_eq!(of(|c| c.signal_seconds = 0), ["slurm.signal_seconds"]);
        assert_eq!(of(|c| c.signal_seconds = 65_536), ["slurm.signal_seconds"]);
        assert!(of(|c| c.directives = vec!["--qos=long".into(), "-x node7".into()]).is_empty());
        assert_eq!(of(|c| c.directives = vec!["--array=1-3".into()]), ["slurm.directives"]);
        assert_eq!(of(|c| c.directives = vec!["--signal USR2".into()]), ["slurm.directives"]);
        assert_eq!(of(|c| c.directives = vec!["qos=long".into()]), ["slurm.directives"]);
        assert_eq!(of(|c| c.directives = vec!["--a\nrm".into()]), ["slurm.directives"]);
    }
}
