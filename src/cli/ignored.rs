//! Signals that whoever started the program wants it not to notice: `nohup` ignores SIGHUP, and a shell SIGINT for what it
//! runs in the background.

/// Signals that the handler of interrupts takes.
#[cfg(unix)]
const CAUGHT: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// Installs a handler of these signals; those that were ignored before stay so.
pub(super) fn keep(install: impl FnOnce()) {
    #[cfg(unix)]
    let ignored: Vec<libc::c_int> = CAUGHT.into_iter().filter(|signal| is_ignored(*signal)).collect();
    install();
    #[cfg(unix)]
    for signal in ignored {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
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
