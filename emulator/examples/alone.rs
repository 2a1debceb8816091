//! The emulated Exchange alone, for any client that speaks XOAUTH2: `cargo run -p gatepost-emulator --example alone`.
//! It prints where it listens and ends with Ctrl-C.
#![allow(clippy::print_stdout, reason = "an example")]

use gatepost_emulator::{Emulator, Options, Tls};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let options = Options::default();
    println!("client id {}, secret {}", options.app.client_id, options.app.client_secret);
    println!("mailboxes {}", options.mailboxes.join(", "));
    let emulator = Emulator::start(options).await?;
    println!("IMAP {}, SMTP {}", emulator.imap(Tls::Implicit), emulator.smtp(Tls::StartTls));
    println!("tokens {}\n{}", emulator.token_url(), emulator.ca_pem());
    tokio::signal::ctrl_c().await
}
