//! What is said on a terminal.
#![cfg(unix)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;

use crate::support::{PROGRAM, Sandbox};

/// The two ends of a terminal: what is written to the second can be read from the first.
fn terminal() -> (File, OwnedFd) {
    let (mut first, mut second) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: both places are valid, and the optional arguments are left out; the descriptors are owned from here on.
    unsafe {
        let opened = libc::openpty(&mut first, &mut second, none, std::ptr::null_mut(), std::ptr::null_mut());
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        (File::from_raw_fd(first), OwnedFd::from_raw_fd(second))
    }
}

/// What a command says on a terminal of this kind.
fn said(sandbox: &Sandbox, kind: &str, line: &str) -> String {
    let (mut screen, stderr) = terminal();
    let args: Vec<&str> = line.split_whitespace().collect();
    let mut command = sandbox.command(PROGRAM, &args);
    let mut child = command.env("TERM", kind).stdout(Stdio::null()).stderr(stderr).spawn().expect("the program starts");
    // The command holds the end that is written to.
    drop(command);
    let mut text = Vec::new();
    // Linux reports an error where the last writer is gone.
    let _ = screen.read_to_end(&mut text);
    assert!(child.wait().expect("it ends").success(), "{}", String::from_utf8_lossy(&text));
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_terminal_without_a_cursor_gets_every_line() {
    let sandbox = Sandbox::new();
    sandbox.prepared(40);
    let line = |out: &str| {
        format!("train --data data --model tiny:16x1 --latent none --max-steps 2 --device cpu --resume --out {out}")
    };
    let [dumb, able] = ["dumb", "xterm"].map(|kind| said(&sandbox, kind, &line(kind)));
    for line in ["nothing to resume in dumb: starting from the beginning\r\n", "training ...\r\n"] {
        assert!(dumb.contains(line), "{line} is not in {dumb}");
    }
    assert!(!dumb.contains('\u{1b}'), "{dumb}");
    // Elsewhere a bar moves.
    assert!(able.contains("nothing to resume in xterm") && able.contains('\u{1b}'), "{able}");
    assert!(!able.contains("training ...\r\n"), "{able}");
}
