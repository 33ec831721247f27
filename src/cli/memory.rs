//! How the program's allocator treats large blocks.

/// Keeps freed memory for the next step instead of giving it back: a training step asks for the same large blocks
/// again and again, and fresh pages cost faults. glibc only.
pub(super) fn keep_freed_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: called once, before any other thread is there; the values are within glibc's limits.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
