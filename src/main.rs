//! The command line: parse it, run the command, set the exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatepost::cli::main()
}
