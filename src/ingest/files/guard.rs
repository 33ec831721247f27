//! Readers of binary formats may panic at damaged bytes. Such a panic is reported as a fault of the file, and its own
//! message is not printed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::super::Input;
use crate::error::Result;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a reader's operation; a failure or a panic is a fault of the file. `kind` names the format.
pub fn guarded<T, E: std::fmt::Display>(
    input: &Input,
    kind: &str,
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let loud = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(loud);
    let what = match done {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "the reader gave up".to_string(),
    };
    Err(input.fault(None, &format!("not a readable {kind} file: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_are_faults_of_the_file() {
        let input = Input::new("x.bin");
        assert_eq!(guarded(&input, "test", || Ok::<_, String>(3)).unwrap(), 3);
        let error = guarded(&input, "test", || Err::<(), _>("torn")).unwrap_err();
        assert_eq!(error.to_string(), "x.bin: not a readable test file: torn");
        let error = guarded(&input, "test", || -> std::result::Result<(), String> { panic!("out of range") });
        let error = error.unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.exit_code()),
            ("x.bin: not a readable test file: the reader gave up", 3)
        );
        assert!(!QUIET.get());
    }
}
