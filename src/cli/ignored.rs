//! `nohup` starts a program with SIGHUP ignored, and wants it to stay so. (Shells start what a script runs in the background
//! with SIGINT ignored; a `kill -INT` is meant for the run all the same.)

/// Installs a handler of interrupts; a SIGHUP that was ignored before stays so.
pub(super) fn keep(install: impl FnOnce()) {
    #[cfg(unix)]
    let ignored = is_ignored(libc::SIGHUP);
    install();
    #[cfg(unix)]
    if ignored {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
        }
    }
}

#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeros is a value of this plain struct; without a new action the call only writes the present one to it.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
    }
}
