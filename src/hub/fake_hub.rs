//! A hub server on this machine, for tests. It answers each path by a script and records every request with its token.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The commit that `main` points to.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The answer to one request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Further header lines.
    pub headers: Vec<String>,
    /// How the transfer fails.
    pub fault: TransferFault,
}

/// How the transfer of an answer fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferFault {
    /// It does not fail.
    None,
    /// No byte is sent for this many milliseconds.
    Silence(u64),
    /// The connection ends after half of the body.
    BreakOff,
    /// Half of the body is sent, then no byte for this many milliseconds.
    Stall(u64),
}

impl Answer {
    /// An answer that is sent completely.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, body: body.into(), headers: Vec::new(), fault: TransferFault::None }
    }

    /// The same answer with one more header line.
    pub fn with(mut self, header: &str) -> Answer {
        self.headers.push(header.into());
        self
    }

    /// The same answer with this fault of its transfer.
    pub fn failing(mut self, fault: TransferFault) -> Answer {
        self.fault = fault;
        self
    }
}

/// Answers by path. Each GET removes the first of a path's answers; the last one stays.
pub type Script = BTreeMap<String, Vec<Answer>>;

/// A running server; it ends with the test's process.
pub struct FakeHub {
    pub endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `METHOD /path`
    pub line: String,
    pub token: Option<String>,
}

impl FakeHub {
    /// Serves these answers; unless `token` is empty, only to requests that carry it.
    pub fn serve(script: Script, token: &str) -> FakeHub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
        let endpoint = format!("http://{}", listener.local_addr().expect("its address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, log, token) = (Arc::new(Mutex::new(script)), asked.clone(), token.to_string());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, log, token) = (script.clone(), log.clone(), token.clone());
                std::thread::spawn(move || talk(stream, &script, &log, &token));
            }
        });
        FakeHub { endpoint, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("the record").clone()
    }

    /// Number of requests so far whose line contains this text.
    pub fn count(&self, part: &str) -> usize {
        self.asked().iter().filter(|a| a.line.contains(part)).count()
    }
}

fn talk(stream: TcpStream, script: &Mutex<Script>, log: &Mutex<Vec<Asked>>, token: &str) {
    let Ok(reading) = stream.try_clone() else { return };
    let (mut reader, mut stream) = (BufReader::new(reading), stream);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut bearer = None;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            if line.to_ascii_lowercase().starts_with("authorization: bearer ") {
                bearer = line.trim().split(' ').nth(2).map(str::to_string);
            }
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let path = path.split('?').next().unwrap_or("").to_string();
        log.lock().expect("the record").push(Asked { line: format!("{method} {path}"), token: bearer.clone() });
        let answer = if token.is_empty() || bearer.as_deref() == Some(token) {
            next(&mut script.lock().expect("the script"), method, &path)
        } else {
            Answer::new(401, "{}")
        };
        if send(&mut stream, method, &answer).is_err() || answer.fault != TransferFault::None {
            return;
        }
    }
}

fn next(script: &mut Script, method: &str, path: &str) -> Answer {
    match script.get_mut(path) {
        None => Answer::new(404, r#"{"error":"Not Found"}"#),
        // A HEAD request uses no answer up: it gets the last one, which stays.
        Some(answers) if method == "HEAD" => answers.last().cloned().unwrap_or_else(|| Answer::new(404, "")),
        Some(answers) if answers.len() > 1 => answers.remove(0),
        Some(answers) => answers[0].clone(),
    }
}

fn send(stream: &mut TcpStream, method: &str, answer: &Answer) -> std::io::Result<()> {
    let pause = |ms| std::thread::sleep(Duration::from_millis(ms));
    if let (TransferFault::Silence(ms), "GET") = (answer.fault, method) {
        pause(ms);
        return Ok(());
    }
    // A client that made file names of these headers would write outside of its cache.
    let mut head = format!(
        "HTTP/1.1 {} x\r\nContent-Length: {}\r\nContent-Type: application/json\r\nETag: \"../../../evil\"\r\nX-Repo-Commit: ../../evil\r\n",
        answer.status,
        answer.body.len()
    );
    for header in &answer.headers {
        head += header;
        head += "\r\n";
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if method == "HEAD" {
        return Ok(());
    }
    match answer.fault {
        TransferFault::None | TransferFault::Silence(_) => stream.write_all(&answer.body),
        TransferFault::BreakOff => stream.write_all(&answer.body[..answer.body.len() / 2]),
        TransferFault::Stall(ms) => {
            stream.write_all(&answer.body[..answer.body.len() / 2])?;
            stream.flush()?;
            pause(ms);
            Ok(())
        }
    }
}

/// A repository `org/name` whose `main` points to [`COMMIT`], which lists `listed` and serves `files`.
/// `kind` is `models` or `datasets`.
pub fn repository(kind: &str, files: &[(&str, &[u8])], listed: &[&str]) -> Script {
    let siblings: Vec<_> = listed.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
    let info = serde_json::json!({"id": "org/name", "sha": COMMIT, "siblings": siblings}).to_string();
    let prefix = if kind == "datasets" { "/datasets" } else { "" };
    let mut script = Script::new();
    for revision in ["main", COMMIT] {
        script.insert(info_path(kind, revision), vec![Answer::new(200, info.clone())]);
    }
    for (name, content) in files {
        script.insert(format!("{prefix}/org/name/resolve/{COMMIT}/{name}"), vec![Answer::new(200, *content)]);
    }
    script
}

/// The path at which a hub describes a revision of `org/name`.
pub fn info_path(kind: &str, revision: &str) -> String {
    format!("/api/{kind}/org/name/revision/{revision}")
}
