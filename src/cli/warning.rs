//! SIGUSR1, with which schedulers warn of the time limit: it asks for a stop, as Ctrl-C does, and to be run again.

use std::sync::atomic::{AtomicBool, Ordering};

static WARNED: AtomicBool = AtomicBool::new(false);

/// From now on SIGUSR1 asks the stages to stop.
pub(super) fn catch() {
    #[cfg(unix)]
    // SAFETY: the handler does what is allowed in one: it stores into an atomic and writes to a file descriptor.
    unsafe {
        libc::signal(libc::SIGUSR1, note as *const () as libc::sighandler_t);
    }
}

#[cfg(unix)]
extern "C" fn note(_signal: libc::c_int) {
    const SAID: &[u8] = b"warned by SIGUSR1: stopping after this step\n";
    if !WARNED.swap(true, Ordering::SeqCst) {
        // SAFETY: the buffer is static; a line that cannot be written is no failure.
        unsafe {
            libc::write(libc::STDERR_FILENO, SAID.as_ptr().cast(), SAID.len());
        }
    }
}

/// Whether it came.
pub(super) fn came() -> bool {
    WARNED.load(Ordering::SeqCst)
}
