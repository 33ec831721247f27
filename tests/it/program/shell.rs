//! Scripts for shells, and manual pages.

use crate::support::Sandbox;

/// Both follow from the commands: every command and every flag of its settings is in them.
#[test]
fn completions_and_manual_pages_know_every_command_and_flag() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.ok(&format!("completions {shell}")).stdout;
        for word in ["noise-sweep", "train", "lora-rank", "flip-marker"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    assert_eq!(sandbox.run(&["completions", "tcsh"]).code, 2);
    let bash = sandbox.ok("completions bash").stdout;
    std::fs::write(sandbox.path("lpc.bash"), bash).expect("a script");
    let asked = "source lpc.bash; COMP_WORDS=(lpc-pipe noi); COMP_CWORD=1; _lpc__pipe lpc-pipe noi lpc-pipe; echo ${COMPREPLY[@]}";
    let told = std::process::Command::new("bash").current_dir(sandbox.path(".")).args(["-c", asked]).output();
    assert_eq!(String::from_utf8_lossy(&told.expect("bash").stdout).trim(), "noise-sweep");

    sandbox.ok("man pages");
    let help = sandbox.ok("--help").stdout;
    let commands = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    for command in commands.filter_map(|l| l.split_whitespace().next()).filter(|c| *c != "help") {
        let page = sandbox.text(&format!("pages/man1/lpc-pipe-{command}.1"));
        assert!(page.contains(".SH OPTIONS"), "{command}");
        if command == "train" {
            assert!(page.contains("lora\\-rank"), "{page}");
        }
    }
    assert!(sandbox.text("pages/man1/lpc-pipe.1").contains("noise\\-sweep"));
    assert!(sandbox.exists("pages/man1/lpc-pipe-noise-sweep-collect.1"), "parts of commands have pages");
}
