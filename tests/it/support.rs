//! A temporary folder, the program run in it, and what it said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use polars::prelude::*;
use serde_json::Value;

/// The program that is tested.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lpc-pipe");

/// A temporary folder in which the program runs: paths in its messages are relative and short.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

/// How a run of the program ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        Sandbox { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, with the folders above it; gives its name back.
    pub fn write<'a>(&self, name: &'a str, content: impl AsRef<[u8]>) -> &'a str {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a path in the sandbox")).expect("folders");
        std::fs::write(path, content).expect("a file in the sandbox");
        name
    }

    /// The program, or another one, as it is run here. The hub is out of reach; there is no terminal.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("HF_HOME", self.path(".hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env_remove("HF_ENDPOINT")
            .env_remove("HF_TOKEN")
            .env_remove("RAYON_NUM_THREADS")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.finish(self.command(PROGRAM, args))
    }

    /// Runs a command to its end.
    pub fn finish(&self, mut command: Command) -> Output {
        let output = command.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("what the program prints is UTF-8");
        let output = Output {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!output.stderr.contains("panicked"), "{command:?}\n{}", output.stderr);
        output
    }

    /// [`Sandbox::run`] with words split at blanks; ends with 0, or the test fails with all that was said.
    pub fn ok(&self, line: &str) -> Output {
        self.ends(0, line)
    }

    /// [`Sandbox::run`] with words split at blanks; ends with this exit code.
    pub fn ends(&self, code: i32, line: &str) -> Output {
        let args: Vec<&str> = line.split_whitespace().collect();
        let output = self.run(&args);
        assert_eq!(output.code, code, "lpc-pipe {line}\n{}\n{}", output.stdout, output.stderr);
        output
    }

    /// A planted corpus of so many prompts in `raw/`.
    pub fn synth(&self, rows: usize) {
        self.ok(&format!("synth --out raw --rows {rows} --factors 3 --seed 5 --quiet"));
    }

    /// A planted corpus, prepared in `data/`, a fifth of the labels flipped.
    pub fn prepared(&self, rows: usize) {
        self.synth(rows);
        self.ok("prepare --input raw --out data --test-fraction 0.25 --flip-rate 0.2 --quiet");
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect("UTF-8")
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn parquet(&self, name: &str) -> DataFrame {
        let file = std::fs::File::open(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        ParquetReader::new(file).finish().unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn arrow(&self, name: &str) -> DataFrame {
        let file = std::fs::File::open(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        IpcReader::new(file).finish().unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Every file below a folder, relative to it, sorted; hidden ones too.
    pub fn files(&self, below: &str) -> Vec<String> {
        let root = self.path(below);
        let mut found = files_below(&root);
        found.sort();
        found
    }
}

/// Every file below a folder, by its path relative to it, with slashes.
pub fn files_below(root: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(name) = path.strip_prefix(root) {
                found.push(name.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a test marked `#[ignore = "needs ..."]` needs: the path that a variable names, else this one in the repository.
/// The test fails where it does not exist.
pub fn needed(variable: &str, default: &str) -> PathBuf {
    let named = std::env::var_os(variable).filter(|v| !v.is_empty());
    let path = named.map_or_else(|| repository().join(default), PathBuf::from);
    assert!(path.exists(), "{} does not exist; {variable} may name another path", path.display());
    path
}

/// A file of `data/samples`.
pub fn sample(name: &str) -> String {
    let path = repository().join("data/samples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Output {
    /// The one JSON object on stdout.
    pub fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {}", self.stdout));
        assert!(value.is_object(), "one object, not {value}");
        assert_eq!(self.stdout.trim_end().lines().count(), 1, "one line");
        value
    }
}

/// Names of a frame's columns.
pub fn columns(frame: &DataFrame) -> Vec<String> {
    frame.get_column_names().iter().map(|n| n.to_string()).collect()
}

/// Names and types of a frame's columns, `name: type`.
pub fn schema(frame: &DataFrame) -> String {
    frame.columns().iter().map(|c| format!("{}: {}\n", c.name(), c.dtype())).collect()
}

/// A column of texts; null becomes `null`.
pub fn texts(frame: &DataFrame, name: &str) -> Vec<String> {
    let column = frame.column(name).expect(name);
    column.str().expect(name).iter().map(|v| v.unwrap_or("null").to_string()).collect()
}

/// A column of numbers; null becomes NaN.
pub fn numbers(frame: &DataFrame, name: &str) -> Vec<f64> {
    let column = frame.column(name).expect(name).cast(&DataType::Float64).expect(name);
    column.f64().expect(name).iter().map(|v| v.unwrap_or(f64::NAN)).collect()
}

/// A column of flags.
pub fn flags(frame: &DataFrame, name: &str) -> Vec<bool> {
    frame.column(name).expect(name).bool().expect(name).iter().map(|v| v.expect(name)).collect()
}

/// Lists of numbers.
pub fn lists(frame: &DataFrame, name: &str) -> Vec<Vec<f64>> {
    let column = frame.column(name).expect(name).list().expect(name);
    (0..frame.height())
        .map(|i| {
            let items = column.get_as_series(i).expect(name).cast(&DataType::Float64).expect(name);
            items.f64().expect(name).iter().map(|v| v.expect(name)).collect()
        })
        .collect()
}

/// Contents of the messages in a column of message lists, joined by `|`.
pub fn contents(frame: &DataFrame, name: &str) -> Vec<String> {
    let column = frame.column(name).expect(name).list().expect(name);
    (0..frame.height())
        .map(|i| {
            let messages = column.get_as_series(i).expect(name);
            let content = messages.struct_().expect(name).field_by_name("content").expect(name);
            content.str().expect(name).iter().map(|v| v.unwrap_or("null")).collect::<Vec<_>>().join("|")
        })
        .collect()
}

/// Runs an assertion of a snapshot with numbers of time and machine left out.
pub fn filtered(check: impl FnOnce()) {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d+\.\d\d pairs/s", "[rate] pairs/s");
    settings.add_filter(r"\d+ MiB peak", "[size] MiB peak");
    settings.add_filter(r"AUROC \d\.\d+", "AUROC [share]");
    settings.bind(check);
}

/// Stops a command after so much work.
pub struct StopsAfter {
    most: u64,
    done: AtomicU64,
}

impl StopsAfter {
    pub fn new(most: u64) -> StopsAfter {
        StopsAfter { most, done: AtomicU64::new(0) }
    }
}

impl lpc_pipe::progress::Progress for StopsAfter {
    fn advance(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }
    fn interrupted(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.most
    }
}
