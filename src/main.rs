//! The `lpc-pipe` program: everything is in the library.

fn main() -> std::process::ExitCode {
    lpc_pipe::cli::main()
}
